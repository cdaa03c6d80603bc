/**
 * Datagrams of this host for a suspended cell wait in a room of the datapath until it is back. The datapath does not wait for
 * any of this, and nothing of it fails a HOLD or a MOVE: at worst datagrams are dropped, as they may always be.
 */
import type { Datapath } from '../datapath/datapath.ts';
import { messageOf } from '../error.ts';
import { Turns } from '../turns.ts';
import type { UdpPolicy } from '../wire/h2o-layout.ts';
import type { PeerRecord, PeerRecords } from './peer-records.ts';

type Needs = {
  readonly datapath: Pick<Datapath, 'openRoom' | 'hasRoom' | 'releaseRoom'>;
  readonly records: PeerRecords;
  readonly log: { info(fields: object, message: string): void; warn(fields: object, message: string): void };
};

export class HeldDatagrams {
  readonly #needs: Needs;
  /** A room is made and let out in several steps: one after the other for each cell. */
  readonly #turns = new WeakMap<PeerRecord, Turns>();
  readonly #leaving = new WeakSet<PeerRecord>();
  readonly #underWay = new Set<Promise<void>>();

  constructor(needs: Needs) {
    this.#needs = needs;
  }

  /** The cell may be about to be suspended: what takes a while is done by then. */
  prepare(record: PeerRecord): void {
    if (!hasDatagrams(record)) return;
    this.#next(record, async () => {
      await this.#open(record);
    });
  }

  /** Also where there is nothing to wait. */
  isReady(record: PeerRecord): boolean {
    return !hasDatagrams(record) || (this.#needs.datapath.hasRoom(record.side) && !this.#leaving.has(record));
  }

  /** They wait from the next update of its side on. */
  pause(record: PeerRecord): boolean {
    record.waits = (hasDatagrams(record) && this.isReady(record)) || undefined;
    return record.waits === true;
  }

  /**
   * The cell is suspended, which is what its first HOLD says: from the next update of its side on datagrams wait, if all is
   * ready. `later`: updates it once more, when it is.
   */
  hold(record: PeerRecord, udp: UdpPolicy, later: () => Promise<void>): void {
    record.datagrams = undefined;
    if (udp === 'drop') {
      this.release(record);
      return;
    }
    if (this.pause(record) || !hasDatagrams(record)) return;
    this.#next(record, async () => {
      if (!(await this.#open(record)) || record.heldAt === undefined) return;
      record.waits = true;
      await later();
      this.#needs.records.saveState(record);
    });
  }

  /** The cell is back, or will not go: what waits goes on, and the room is given up. */
  release(record: PeerRecord): void {
    if (!record.waits && !this.#turns.has(record)) return;
    this.#leaving.add(record);
    this.#next(record, () => this.#release(record));
  }

  /** Of an agent that did not come to it. */
  resume(): void {
    for (const record of this.#needs.records.all())
      if (record.waits && record.heldAt === undefined) this.release(record);
  }

  async idle(): Promise<void> {
    await Promise.all(this.#underWay);
  }

  async #open(record: PeerRecord): Promise<boolean> {
    const { datapath, records, log } = this.#needs;
    const isThere = records.has(record) && (await datapath.openRoom(record.side));
    // It may have been forgotten meanwhile.
    if (isThere && !records.has(record)) await datapath.releaseRoom(record.side);
    else if (!isThere)
      log.warn({ cell_id: record.cell }, 'no room for datagrams: those for this cell are dropped');
    return isThere && records.has(record);
  }

  async #release(record: PeerRecord): Promise<void> {
    const { datapath, records, log } = this.#needs;
    record.waits = undefined;
    const counts = await datapath.releaseRoom(record.side);
    this.#leaving.delete(record);
    if (counts === undefined) return;
    const { came, left, late } = counts;
    if (came === 0) return;
    record.datagrams = { came, left, late };
    log.info(
      { cell_id: record.cell, came, left, late, lost: came - left },
      'datagrams have waited for this cell',
    );
    if (records.has(record)) records.saveState(record);
  }

  #next(record: PeerRecord, step: () => Promise<void>): void {
    const turns = this.#turns.get(record) ?? new Turns();
    this.#turns.set(record, turns);
    const done = turns.run(step).catch((error: unknown) => {
      this.#leaving.delete(record);
      const message = 'datagrams for a suspended cell could not be seen to: they may be lost';
      this.#needs.log.warn({ cell_id: record.cell, error: messageOf(error) }, message);
    });
    this.#underWay.add(done);
    void done.finally(() => this.#underWay.delete(done));
  }
}

function hasDatagrams({ flows }: PeerRecord): boolean {
  return [...flows.values()].some(({ id }) => id.protocol === 'udp');
}
