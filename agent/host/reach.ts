/** Whether the agents of other hosts can be reached from this one: what `osmosis doctor HOST HOST` asks. */
import { randomBytes } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { isIPv6 } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AgentContext } from '../context.ts';
import type { DOCTOR_METHODS } from '../control/doctor-protocol.ts';
import type { Handlers } from '../control/server.ts';
import { exchangeHello } from '../h2o/cell-side.ts';
import { newTransaction } from '../wire/h2o.ts';
import { H2O_PORT, ID_BYTES } from '../wire/h2o-layout.ts';
import { generateKeyPair } from '../wire/h2o-session.ts';
import { isOwnAddress } from './routes.ts';

const PATIENCE = { triesMax: 6, retryMsMax: 200 } as const;
/** After a datagram to a closed port, the host's answer has that long to come. */
const CLOSED_MS_MAX = 300;
const AT_ONCE_MAX = 32;

type Voice = Pick<AgentContext, 'socket' | 'trust'>;
type Answer = 'agent' | 'closed' | 'silent' | 'own' | 'no-route';

export function reachHandlers(voice: Voice): Pick<Handlers, keyof typeof DOCTOR_METHODS> {
  return {
    reach: async ({ addresses }, { signal }) => {
      const waiting = [...addresses.entries()];
      const rows: { address: string; answer: Answer }[] = [];
      const work = async () => {
        for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
          const [index, address] = next;
          rows[index] = { address, answer: await reach(voice, address, signal) };
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE_MAX }, work));
      return { rows };
    },
  };
}

async function reach(voice: Voice, address: string, signal: AbortSignal): Promise<Answer> {
  if (isOwnAddress(address)) return 'own';
  const port = await portAt(address, signal);
  if (port !== 'open or silent') return port;
  // A cell that nobody has, and a connection that can't be: between the two agents' own ports, but of TCP.
  const local = { address: isIPv6(address) ? '::' : '0.0.0.0', port: H2O_PORT };
  const hello = {
    cell: randomBytes(ID_BYTES),
    transaction: newTransaction(),
    epoch: 0,
    publicKey: generateKeyPair().publicKey,
    claims: [{ protocol: 'tcp' as const, local, peerAddress: address, peerPorts: [H2O_PORT] }],
  };
  const { silent } = await exchangeHello(voice, address, hello, signal, PATIENCE);
  return silent ? 'silent' : 'agent';
}

/** A connected socket hears what ICMP says of its datagrams. What does not come from the port of agents, they don't answer. */
async function portAt(address: string, signal: AbortSignal): Promise<Answer | 'open or silent'> {
  const socket = createSocket(isIPv6(address) ? 'udp6' : 'udp4');
  const failed = once(socket, 'error', { signal }).then(([error]) => error as NodeJS.ErrnoException);
  failed.catch(() => undefined);
  try {
    socket.connect(H2O_PORT, address);
    const first = await Promise.race([failed, once(socket, 'connect', { signal })]);
    if (first instanceof Error) return 'no-route';
    socket.send(new Uint8Array(1));
    const said = await Promise.race([failed, sleep(CLOSED_MS_MAX, undefined, { signal })]);
    if (said === undefined) return 'open or silent';
    return said.code === 'ECONNREFUSED' ? 'closed' : 'no-route';
  } catch {
    signal.throwIfAborted();
    return 'no-route';
  } finally {
    socket.close();
  }
}
