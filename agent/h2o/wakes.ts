/**
 * A cell is back after a suspension: its peers' sockets on this host go on at once. What the cell says first does that as
 * well, if it arrives; this is for when it does not, or is answered in vain. Nothing of it fails a MOVE.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Datapath } from '../datapath/datapath.ts';
import { LOOPBACK, type LocalHalf } from '../datapath/model.ts';
import { cellDevice, type Waking, wakeUp } from '../datapath/socket-wakes.ts';
import { messageOf } from '../error.ts';
import { tcpByNamespace } from './held-sockets.ts';
import type { NetworkView } from './kernel-flows.ts';
import { type PeerFlow, type PeerRecord, placeOf } from './peer-records.ts';

/**
 * After MOVE: first every socket that waits, then those whose timers have backed off since, or still have. The process may
 * have to wait for its other peers before it runs, for 10 s at most (TURNED_MS_MAX).
 */
const LOOKS_MS = [0, 250, 1_000, 4_000, 12_000] as const;

type Needs = {
  readonly datapath: Pick<Datapath, 'locals'>;
  readonly views: () => readonly NetworkView[];
  readonly log: { warn(fields: object, message: string): void };
};

export class Wakes {
  readonly #needs: Needs;
  readonly #running = new Map<PeerRecord, AbortController>();

  constructor(needs: Needs) {
    this.#needs = needs;
  }

  /** Not waited for. */
  begin(record: PeerRecord): void {
    this.end(record);
    const stop = new AbortController();
    this.#running.set(record, stop);
    void this.#looks(record, stop.signal)
      .catch((error: unknown) => {
        if (!stop.signal.aborted)
          this.#needs.log.warn(
            { cell_id: record.cell, error: messageOf(error) },
            'connections with a cell that is back could not all be woken; some may wait for their own timers, 120 s at most',
          );
      })
      .finally(() => {
        if (!stop.signal.aborted) this.#running.delete(record);
      });
  }

  /** It is suspended again, or forgotten. */
  end(record: PeerRecord): void {
    this.#running.get(record)?.abort();
    this.#running.delete(record);
  }

  stop(): void {
    for (const record of [...this.#running.keys()]) this.end(record);
  }

  async #looks(record: PeerRecord, signal: AbortSignal): Promise<void> {
    const began = performance.now();
    for (const [index, at] of LOOKS_MS.entries()) {
      await sleep(Math.max(0, at - (performance.now() - began)), undefined, { signal, ref: false });
      await this.#look(record, index > 0);
    }
  }

  async #look(record: PeerRecord, urge: boolean): Promise<void> {
    for (const [pid, flows] of tcpByNamespace(this.#needs.views(), [...record.flows.values()])) {
      const locals = await this.#needs.datapath.locals(flows.map(({ id }) => id));
      const inside = pid === 'self' ? undefined : await cellDevice(`/proc/${pid}/ns/net`);
      const wakings = flows.flatMap((flow, index) => wakingOf(flow, record, locals[index], inside) ?? []);
      if (wakings.length > 0) await wakeUp(pid, wakings, urge);
    }
  }
}

function wakingOf(
  flow: PeerFlow,
  record: PeerRecord,
  own: LocalHalf | undefined,
  inside: Pick<Waking, 'ifindex' | 'mac'> | undefined,
): Waking | undefined {
  const { local, remote, scope } = flow.id;
  const looped = own?.via === LOOPBACK;
  if (scope !== 0) return inside && { local, remote, ...inside, delivered: looped };
  const ifindex = looped ? LOOPBACK : placeOf(flow, record)?.ifindex;
  return ifindex === undefined ? undefined : { local, remote, ifindex, delivered: true };
}
