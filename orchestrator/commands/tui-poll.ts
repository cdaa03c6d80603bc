/** What the interactive display knows of a host: its agent is asked again and again. */
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../../agent/error.ts';
import type { HostConnection } from '../ssh/host.ts';
import { type HostView, hostNamed, type Model } from '../tui/model.ts';
import { hostUp } from '../tui/status.ts';
import type { TuiEvent } from '../tui/update.ts';
import type { Hosts } from './hosts.ts';

/** Between two questions to an agent. */
const POLL_MS = 1_000;
/** One that does not answer is asked again after this. */
const AGAIN_MS = 3_000;
const ANSWER_MS_MAX = 10_000;

export type Polled = {
  readonly hosts: Pick<Hosts, 'connect' | 'agent' | 'release'>;
  readonly model: () => Model;
  readonly tell: (event: TuiEvent) => void;
};

/** Until the display ends; a host that is down is asked again, on a new connection. */
export async function poll(name: string, { hosts, model, tell }: Polled, signal: AbortSignal): Promise<void> {
  const known = (): HostView => hostNamed(model(), name) ?? { name, state: 'connecting', cells: [] };
  while (!signal.aborted) {
    let connection: HostConnection | undefined;
    try {
      connection = await hosts.connect(name);
      const agent = await hosts.agent(connection);
      for (;;) {
        const limit = { signal, timeoutMs: ANSWER_MS_MAX };
        const [status, { cells }] = await Promise.all([
          agent.call('status', {}, limit),
          agent.call('traffic', {}, limit),
        ]);
        tell({ event: 'host', host: hostUp(known(), status, cells, performance.now()) });
        await sleep(POLL_MS, undefined, { signal });
      }
    } catch (thrown) {
      if (signal.aborted) return;
      tell({ event: 'host', host: { ...known(), state: 'down', message: messageOf(thrown) } });
    } finally {
      if (connection !== undefined) await hosts.release(connection);
    }
    await sleep(AGAIN_MS, undefined, { signal }).catch(() => undefined);
  }
}
