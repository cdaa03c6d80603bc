/** H2O datagrams as they arrive at a host, captured there. */
import { setTimeout as sleep } from 'node:timers/promises';
import { execOn, LAB_HOSTS, type LabHost, spawnOn } from '../fixtures/lab/hosts.ts';

const FILE = '/tmp/h2o-captured.pcap';
const READY_MS_MAX = 10_000;
const POLL_MS = 50;
/** What has just arrived is in the file by then. */
const FLUSH_MS = 300;

const H2O_TYPES = ['hello', 'welcome', 'move', 'hold', 'bye', 'ack'] as const;
/** `background`: a HELLO whose claims are to be kept, which no migration says. */
type H2oType = (typeof H2O_TYPES)[number] | 'background' | 'other';

export type Capture = {
  /** Types of all about this cell (hex) that has come to the host so far, over IPv4 and from elsewhere, in order. */
  read(cell: string): Promise<H2oType[]>;
} & AsyncDisposable;

/** Resolves when nothing is missed any more. */
export async function captureH2o(host: LabHost): Promise<Capture> {
  await execOn(host, ['rm', '-f', FILE]);
  const filter = `udp dst port 18018 and dst host ${LAB_HOSTS[host]}`;
  const { pid } = await spawnOn(host, ['tcpdump', '-i', 'eth0', '-U', '-w', FILE, '-n', filter]);
  const isReady = async () => (await execOn(host, ['test', '-s', FILE], { reject: false })).exitCode === 0;
  for (let waited = 0; !(await isReady()); waited += POLL_MS) {
    if (waited > READY_MS_MAX) throw new Error(`tcpdump does not start on ${host}`);
    await sleep(POLL_MS);
  }
  return {
    read: async (cell) => {
      await sleep(FLUSH_MS);
      const { stdout } = await execOn(host, ['tcpdump', '-r', FILE, '-n', '-t', '-x']);
      return typesOf(stdout, cell);
    },
    [Symbol.asyncDispose]: async () => {
      await execOn(host, ['kill', String(pid)]);
      await execOn(host, ['rm', '-f', FILE]);
    },
  };
}

/** Of the output of `tcpdump -x`: IPv4 without options, UDP; of H2O the type at byte 4, the detail at byte 5, and the cell's id at byte 8. */
function typesOf(dump: string, cell: string): H2oType[] {
  const packets = dump.split(/^(?=\S)/m).filter((packet) => packet.includes('0x0000'));
  return packets.flatMap((packet) => {
    const lines = [...packet.matchAll(/^\s+0x[0-9a-f]+:\s+(.*)$/gm)];
    const h2o = lines
      .map(([, hex = '']) => hex.replaceAll(' ', ''))
      .join('')
      .slice(2 * (20 + 8));
    if (h2o.slice(2 * 8, 2 * 24) !== cell) return [];
    const type = H2O_TYPES[Number.parseInt(h2o.slice(2 * 4, 2 * 5), 16) - 1] ?? 'other';
    const isKept = h2o.slice(2 * 5, 2 * 6) === '01';
    return [type === 'hello' && isKept ? 'background' : type];
  });
}
