/** Ended connections, moves that never came, keys that nobody used: nothing of ours outlives its use. */
import type { Datapath } from '../datapath/datapath.ts';
import { type FlowId, RELAY } from '../datapath/model.ts';
import { keyOf } from '../datapath/table.ts';
import type { Follows } from './follows.ts';
import type { HeldSockets } from './held-sockets.ts';
import type { KernelFlows } from './kernel-flows.ts';
import { endAtHome, relayedOf } from './peer-flows.ts';
import type { PeerFlow, PeerRecord, PeerRecords } from './peer-records.ts';
import { isOver } from './relays.ts';
import type { RemoteCells } from './remote-cells.ts';

/** An armed move that has not happened after this long will not: longer than every deadline of a migration together. */
const ARMED_MS_MAX = 600_000;
/** Keys of a cell whose last flow has ended are kept this long for its next HELLO. After that both begin anew. */
const IDLE_MS_MAX = 5_000;
/** Those that were only asked for: a migration may take this long to come to its arming, and to be undone. */
const ASKED_MS_MAX = 60_000;
/** The agent of a cell that new flows followed, and that has not renewed their lease: it may be back with the same keys. */
const LAPSED_MS_MAX = 86_400_000;
/** A suspended cell without a flow here: for so long its return can be told from that of an older copy. 30 days. */
const HELD_IDLE_MS_MAX = 30 * 24 * 3_600_000;
/** A cell that is back where its flows began: late packets of the place that it left are still understood for this long. */
const PLAIN_AFTER_MS = 5_000;
/** Whether relayed flows have ended is looked at this often: with 10,000 of them a look takes 0.2 s. */
const RELAYS_LOOK_MS = 5_000;
/** Whether claimed flows have ended is looked at this often. */
const CLAIMS_LOOK_MS = 6_000;
/** A flow is forgotten when its socket is missing in this many sweeps in a row. */
const SWEEPS_MISSING_MAX = 2;

type Needs = {
  readonly datapath: Datapath;
  readonly records: PeerRecords;
  readonly kernel: KernelFlows;
  readonly follows: Follows;
  readonly cells: RemoteCells;
  readonly heldSockets: HeldSockets;
};

export class Sweeper {
  readonly #needs: Needs;
  #relaysAt = 0;
  #claimsAt = 0;

  constructor(needs: Needs) {
    this.#needs = needs;
  }

  async sweep(): Promise<void> {
    const records = this.#needs.records.all();
    if (records.length === 0) return;
    const now = Date.now();
    await this.#needs.follows.sweep();
    this.#needs.heldSockets.sweep();
    // Reading the kernel's tables takes 0.1 s with 10,000 sockets: not for what is only claimed.
    if (records.some(({ flows }) => flows.size > 0)) await this.dropEnded(SWEEPS_MISSING_MAX);
    if (now - this.#claimsAt > CLAIMS_LOOK_MS) this.#dropEndedClaims(records);
    if (now - this.#relaysAt > RELAYS_LOOK_MS) await this.#dropEndedRelays(records);
    for (const record of records) {
      if (record.armedAt !== undefined && now - record.armedAt > ARMED_MS_MAX)
        await this.#needs.cells.disarm(record);
      if (record.plainAt !== undefined && now - record.plainAt > PLAIN_AFTER_MS) await this.#plain(record);
      if (isUnused(record, now)) await this.#needs.cells.forget(record);
    }
  }

  /** The flows are where they began, and nothing of another place is on its way any more: entries are of no use. */
  async #plain(record: PeerRecord): Promise<void> {
    record.plainAt = undefined;
    const flows = [...record.flows.values()];
    await this.#needs.cells.dropFlows(record, flows);
    // The cell has shown that they are its own, and may move again without a word.
    if (record.keeps)
      this.#needs.records.claim(
        record,
        flows.map(({ id }) => id),
      );
    this.#needs.records.save(record);
  }

  async #dropEndedRelays(records: readonly PeerRecord[]): Promise<void> {
    this.#relaysAt = Date.now();
    if (records.every((record) => relayedOf(record).length === 0)) return;
    const states = await this.#needs.datapath.relays();
    const nowNs = process.hrtime.bigint();
    const over = states.filter((state) => isOver(state, nowNs)).map(({ id }) => id);
    for (const [record, ids] of Map.groupBy(over, (id) => this.#needs.records.owner(id))) {
      if (record === undefined) continue;
      await this.end(
        record,
        ids.flatMap((id) => record.flows.get(keyOf(id)) ?? []),
      );
    }
  }

  /** The sockets of a relayed flow are elsewhere: dropEndedRelays sees to those, until its cell has come to this host. */
  #isAlive(flow: PeerFlow, record: PeerRecord): boolean {
    const { id } = flow;
    const ours = id.scope === RELAY ? endAtHome(flow, record) : id;
    return ours === undefined || this.#hasSocket(ours);
  }

  #hasSocket(id: FlowId): boolean {
    return this.#needs.kernel.scopesOf(id).includes(id.scope);
  }

  /** Forgets flows whose socket was missing so many times in a row. */
  async dropEnded(missingMax: number): Promise<void> {
    this.#needs.kernel.read();
    for (const record of this.#needs.records.all()) {
      for (const flow of record.flows.values())
        flow.missing = this.#isAlive(flow, record) ? 0 : flow.missing + 1;
      const ended = [...record.flows.values()].filter(({ missing }) => missing >= missingMax);
      if (ended.length === 0) continue;
      await this.#needs.cells.dropFlows(record, ended);
      this.#needs.records.save(record);
    }
  }

  #dropEndedClaims(records: readonly PeerRecord[]): void {
    this.#claimsAt = Date.now();
    if (records.every(({ claims }) => claims.size === 0)) return;
    this.#needs.kernel.read();
    for (const record of records) {
      for (const claim of record.claims.values())
        claim.missing = claim.id.scope === RELAY || this.#hasSocket(claim.id) ? 0 : claim.missing + 1;
      const ended = [...record.claims.values()].filter(({ missing }) => missing >= SWEEPS_MISSING_MAX);
      if (ended.length === 0) continue;
      this.#needs.records.unclaim(
        record,
        ended.map(({ id }) => id),
      );
      this.#needs.records.save(record);
    }
  }

  async end(record: PeerRecord, flows: readonly PeerFlow[]): Promise<void> {
    await this.#needs.cells.dropFlows(record, flows);
    this.#needs.records.save(record);
  }
}

/** Nothing has needed its keys for so long that they are not kept any more. */
export function isUnused(record: PeerRecord, now: number): boolean {
  const { state, flows, claims, armedAt, follow, lapsedAt, heldAt, touchedAt } = record;
  if (flows.size > 0 || claims.size > 0 || armedAt !== undefined || follow !== undefined) return false;
  if (lapsedAt !== undefined) return now - lapsedAt > LAPSED_MS_MAX;
  if (heldAt !== undefined) return now - touchedAt > HELD_IDLE_MS_MAX;
  return now - touchedAt > (state?.pair.epoch === 0 ? ASKED_MS_MAX : IDLE_MS_MAX);
}
