/**
 * What answers alone do not help against, for sockets of this host whose other end is suspended: limits that the kernel
 * keeps to whatever is answered. The datapath does not wait for any of this, and nothing of it fails a HOLD or a MOVE.
 */
import { flowKey } from '../address.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { giveTimeoutsBack, liftTimeouts } from '../datapath/socket-timeouts.ts';
import { messageOf } from '../error.ts';
import { Turns } from '../turns.ts';
import type { NetworkView } from './kernel-flows.ts';
import type { PeerFlow, PeerRecord, PeerRecords } from './peer-records.ts';

/** A process may close its socket meanwhile, and the kernel gives that up after some 100 s: it is seen to as often as this. */
const LIFT_AGAIN_MS = 30_000;
/** A limit that is given back at once would count from before the suspension: first the connection has to get on. */
const GIVE_BACK_AFTER_MS = 10_000;

type Needs = {
  readonly datapath: Pick<Datapath, 'attachHeld'>;
  readonly records: PeerRecords;
  readonly views: () => readonly NetworkView[];
  readonly log: { warn(fields: object, message: string): void };
};

export class HeldSockets {
  readonly #needs: Needs;
  /** When it was first seen that a cell is back. */
  readonly #backSince = new WeakMap<PeerRecord, number>();
  readonly #turns = new Turns();
  #liftedAt = 0;

  constructor(needs: Needs) {
    this.#needs = needs;
  }

  /** The cell is suspended. What was lifted is written down, so that an agent that comes back can give it back. */
  lift(record: PeerRecord): void {
    this.#backSince.delete(record);
    this.#next(() => this.#attach(record));
    this.#next(() => this.#lift([record]));
  }

  /** Cells of this host that have flows with it. */
  async #attach({ flows }: PeerRecord): Promise<void> {
    for (const [pid, [flow]] of tcpByNamespace(this.#needs.views(), [...flows.values()])) {
      const scope = flow?.id.scope ?? 0;
      if (scope !== 0) await this.#needs.datapath.attachHeld(`/proc/${pid}/ns/net`, scope);
    }
  }

  /** Of flows that nobody follows any more. */
  giveBack(record: PeerRecord, flows: readonly PeerFlow[]): void {
    const lifted = flows.filter(({ userTimeout }) => userTimeout !== undefined);
    if (lifted.length > 0) this.#next(() => this.#giveBack(record, lifted));
  }

  sweep(): void {
    const now = Date.now();
    const records = this.#needs.records.all();
    for (const record of records) if (record.heldAt === undefined) this.#giveBackLater(record, now);
    if (now - this.#liftedAt < LIFT_AGAIN_MS) return;
    this.#liftedAt = now;
    const held = records.filter(({ heldAt }) => heldAt !== undefined);
    if (held.length > 0) this.#next(() => this.#lift(held));
  }

  async idle(): Promise<void> {
    await this.#turns.idle();
  }

  #giveBackLater(record: PeerRecord, now: number): void {
    const lifted = [...record.flows.values()].filter(({ userTimeout }) => userTimeout !== undefined);
    if (lifted.length === 0) return;
    const since = this.#backSince.get(record) ?? now;
    this.#backSince.set(record, since);
    if (now - since >= GIVE_BACK_AFTER_MS) this.giveBack(record, lifted);
  }

  async #lift(records: readonly PeerRecord[]): Promise<void> {
    // It may be back by now.
    const held = records.filter((record) => record.heldAt !== undefined && this.#needs.records.has(record));
    const flows = held.flatMap((record) => [...record.flows.values()]);
    for (const [pid, its] of tcpByNamespace(this.#needs.views(), flows)) {
      const changes = await liftTimeouts(pid, its.map(pairOf));
      const was = new Map(changes.map((change) => [flowKey({ protocol: 'tcp', ...change }), change.wasMs]));
      for (const flow of its) flow.userTimeout ??= was.get(flowKey(flow.id));
    }
    for (const record of held) if (isLifted(record)) this.#needs.records.saveFlows(record);
  }

  async #giveBack(record: PeerRecord, flows: readonly PeerFlow[]): Promise<void> {
    // It may have been asked for again before it was done.
    const lifted = flows.filter(({ userTimeout }) => userTimeout !== undefined);
    for (const [pid, its] of tcpByNamespace(this.#needs.views(), lifted)) {
      const changes = its.map((flow) => ({ ...pairOf(flow), wasMs: flow.userTimeout ?? 0 }));
      await giveTimeoutsBack(pid, changes);
    }
    for (const flow of lifted) flow.userTimeout = undefined;
    if (this.#needs.records.has(record)) this.#needs.records.saveFlows(record);
  }

  /** In order: what is lifted is given back after that. */
  #next(step: () => Promise<void>): void {
    void this.#turns.run(step).catch((error: unknown) => {
      const message =
        'not all could be done for connections with a suspended cell, such as lifting TCP_USER_TIMEOUT';
      this.#needs.log.warn({ error: messageOf(error) }, message);
    });
  }
}

/** TCP flows by the process in whose network namespace they are; sockets of relayed ones are elsewhere. */
export function tcpByNamespace(
  views: readonly NetworkView[],
  flows: readonly PeerFlow[],
): (readonly [NetworkView['pid'], PeerFlow[]])[] {
  const tcp = flows.filter(({ id }) => id.protocol === 'tcp');
  return views.flatMap(({ pid, scope }) => {
    const its = tcp.filter(({ id }) => id.scope === scope);
    return its.length === 0 ? [] : [[pid, its] as const];
  });
}

function isLifted({ flows }: PeerRecord): boolean {
  return [...flows.values()].some(({ userTimeout }) => userTimeout !== undefined);
}

function pairOf({ id: { local, remote } }: PeerFlow) {
  return { local, remote };
}
