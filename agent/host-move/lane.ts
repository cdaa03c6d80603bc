/**
 * What one cell has with one peer host, as far as it can follow a change of this host's address: the flows that the peer has
 * let it claim, and the MOVE that is under way. Until that is acknowledged nothing leaves from the new place: the peer would
 * answer what it does not know with a reset.
 */
import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { endpointKey, flowKey } from '../address.ts';
import type { Cell, Registry } from '../cell/registry.ts';
import type { Datapath } from '../datapath/datapath.ts';
import type { Tuple } from '../datapath/layout.ts';
import { acceptOf, type LocalHalf, type Side } from '../datapath/model.ts';
import { messageOf } from '../error.ts';
import { type Arming, createArming, sendArming } from '../h2o/arming.ts';
import type { H2oSocket } from '../h2o/socket.ts';
import type { Route } from '../host/routes.ts';
import { Announcement, type AnnouncementRecord } from '../migration/announcement.ts';
import { newTransaction } from '../wire/h2o.ts';
import { canArm } from '../wire/h2o-arm.ts';
import { areListed } from '../wire/h2o-labels.ts';
import { isDrop, type Label } from '../wire/h2o-layout.ts';
import { deriveSession, generateKeyPair } from '../wire/h2o-session.ts';
import { isPlain, type KeptFlow, labelsOf } from './places.ts';

export type LaneRecord = {
  readonly cell: string;
  /** Address of the peer's host. */
  readonly peer: string;
  readonly side: number;
  readonly flows: readonly KeptFlow[];
  /** The MOVE that is not acknowledged yet. */
  readonly announcement?: AnnouncementRecord | undefined;
  /** Before it: labels that it names by digest, since they are more than it can list. */
  readonly arming?: Arming | undefined;
  /** Where the flows were before, on the wire: what is on its way to there is let in for a while. */
  readonly former?: readonly Tuple[] | undefined;
  /** Datagrams of the flows wait. */
  readonly waits?: boolean | undefined;
};

/** What a peer has sent before it knew the new address arrives within this, if at all. */
const FORMER_MS = 2_000;

export type LaneNeeds = {
  readonly datapath: Pick<
    Datapath,
    | 'locals'
    | 'moveLocals'
    | 'openRoom'
    | 'putLocals'
    | 'putSide'
    | 'releaseRoom'
    | 'removeIfEmpty'
    | 'removeLocals'
    | 'removeSide'
    | 'removeWays'
  >;
  readonly registry: Registry;
  readonly socket: H2oSocket;
  readonly log: { info(fields: object, message: string): void; warn(fields: object, message: string): void };
  /** Writes a lane down. */
  readonly save: (lane: Lane) => void;
  /** A MOVE has been acknowledged: this host may have moved on meanwhile. */
  readonly settled: () => void;
};

export class Lane {
  readonly #needs: LaneNeeds;
  readonly #stop = new AbortController();
  readonly cell: string;
  readonly peer: string;
  readonly #side: number;
  /** By flowKey. */
  readonly flows: Map<string, KeptFlow>;
  #announcement: Announcement | undefined;
  #arming: Arming | undefined;
  #former: readonly Tuple[];
  /** Datagrams of its flows wait, or are just being let out. */
  #waits = false;
  /** A move is being begun, or what one has left behind is being taken away. */
  #isChanging = false;
  /** Its side is in the datapath. */
  #isEntered = false;

  constructor(needs: LaneNeeds, record: Omit<LaneRecord, 'side' | 'flows'> & Partial<LaneRecord>) {
    const { cell, peer, side, flows = [], announcement, arming, former = [], waits = false } = record;
    this.#needs = needs;
    this.cell = cell;
    this.peer = peer;
    this.#side = side ?? randomInt(1, 2 ** 31);
    this.flows = new Map(flows.map((flow) => [flowKey(flow), flow]));
    this.#arming = arming;
    this.#former = former;
    this.#waits = waits;
    this.#isEntered = former.length > 0 || flows.some(({ localSide }) => localSide === this.#side);
    this.#announcement = announcement && Announcement.adopt(needs.socket, announcement, this.#stop.signal);
  }

  record(): LaneRecord {
    const { cell, peer } = this;
    const announcement = this.#announcement?.record();
    return {
      cell,
      peer,
      side: this.#side,
      flows: [...this.flows.values()],
      announcement,
      arming: this.#arming,
      former: this.#former,
      waits: this.#waits,
    };
  }

  /** A MOVE waits for its ACK: the next one can only be made of what that says. */
  get isMoving(): boolean {
    return this.#announcement !== undefined || this.#waits || this.#isChanging;
  }

  get isAway(): boolean {
    return [...this.flows.values()].some((flow) => !isPlain(flow));
  }

  /** There may be a way to the peer now: what it has not acknowledged is said at once. */
  nudge(): void {
    if (this.#arming === undefined) this.#announcement?.nudge();
  }

  /** After a restart. */
  resume(): void {
    if (this.#announcement !== undefined) void this.#announce(this.#announcement);
    else if (this.#isEntered) void this.#letOut().then(() => this.#forgetFormer());
  }

  /**
   * These flows are at another place from now on; the others stay. `route`: to the peer, by a device that is attached. Nothing
   * where a migration has the cell by now; from here on none can begin.
   */
  async move(cell: Cell, flows: readonly KeptFlow[], route: Route): Promise<void> {
    if (this.#needs.registry.isLocked(cell.id)) return;
    this.#isChanging = true;
    try {
      await this.#move(cell, flows, route);
    } finally {
      this.#isChanging = false;
      // It has failed: nobody else would let out what waits, and it is tried again.
      if (this.#announcement === undefined) await this.#letOut();
    }
  }

  async #move(cell: Cell, flows: readonly KeptFlow[], route: Route): Promise<void> {
    const { datapath, registry, socket, log, save } = this.#needs;
    const labels = sayable(labelsOf(flows));
    const keys = registry.keysWith(cell, this.peer);
    const { epoch, publicKey: cellPublicKey, secretKey, peerPublicKey } = keys;
    const id = Buffer.from(cell.id, 'hex');
    const session =
      peerPublicKey &&
      deriveSession({ cell: id, epoch, cellPublicKey, peerPublicKey, secretKey, role: 'cell' });
    if (session === undefined || isDrop(session)) {
      log.warn({ cell: cell.name, peer: this.peer }, 'no keys with this peer: its connections are not kept');
      return;
    }
    const told = new Set(labels.map(({ protocol, virtual }) => endpointKey(protocol, virtual)));
    const going = flows.filter(({ protocol, local, known }) =>
      told.has(endpointKey(protocol, known ?? local)),
    );
    if (going.length < flows.length)
      log.warn(
        { cell: cell.name, peer: this.peer, flows: flows.length - going.length },
        'more endpoints than can be announced: their connections are not kept',
      );
    this.#isEntered = true;
    const halves = going.map((flow) => ({ ...flow, localSide: this.#side, path: route.ifindex }));
    this.#waits = await this.#hasRoomFor(entered(halves));
    await datapath.putSide(this.#sideIn('queued', cell));
    const former = await datapath.moveLocals(entered(halves));
    this.#former = [...this.#former, ...former];
    for (const half of halves) this.flows.set(flowKey(half), half);
    if (!areListed(labels)) this.#arming = createArming(this.peer, session, ++keys.last, labels);
    const transaction = this.#arming?.transaction ?? newTransaction();
    keys.last += 1;
    registry.save(cell.id);
    const peerSession = { peer: this.peer, epoch: keys.last, transaction, ...session };
    this.#announcement = Announcement.create(socket, peerSession, labels, generateKeyPair(), {
      signal: this.#stop.signal,
    });
    save(this);
    log.info(
      { cell: cell.name, peer: this.peer, flows: halves.length, to: [...new Set(halves.map(placeText))] },
      'this host has another address: its peer is told',
    );
    void this.#announce(this.#announcement);
  }

  /** Flows that the peer has let it claim, at the places where they are. */
  async take(cell: Cell, flows: readonly KeptFlow[]): Promise<void> {
    const { datapath } = this.#needs;
    const halves = flows.map((flow) => {
      const isEntered = cell.link === undefined && !isPlain(flow) && !flow.isLoose;
      return isEntered ? { ...flow, localSide: this.#side } : flow;
    });
    const away = entered(halves).filter(({ localSide }) => localSide === this.#side);
    if (away.length > 0) {
      if (!this.#isEntered) await datapath.putSide(this.#sideIn('home', cell));
      this.#isEntered = true;
      await datapath.putLocals(away);
    }
    for (const flow of halves) this.flows.set(flowKey(flow), flow);
    this.#needs.save(this);
  }

  /** Their other ends have gone to a host that another lane is with, which has them from now on. */
  leave(flows: readonly KeptFlow[]): void {
    if (flows.filter((flow) => this.flows.delete(flowKey(flow))).length > 0) this.#needs.save(this);
  }

  /** The peer has forgotten what it let the cell claim. What goes by another address is another matter: it follows that. */
  leaveAtHome(): void {
    if (!this.isMoving) this.leave([...this.flows.values()].filter(isPlain));
  }

  /** Nothing of it is left here. The labels of its endpoints are given back by whoever knows the other lanes. */
  async close(): Promise<void> {
    const { datapath } = this.#needs;
    this.#stop.abort();
    await datapath.removeWays(this.#former);
    // Nothing of it was ever entered: nothing is to be loaded for that.
    if (!this.#isEntered) return;
    const locals = await datapath.locals([...this.flows.values()]);
    await datapath.removeLocals(locals.flatMap((half) => (half?.localSide === this.#side ? [half] : [])));
    await datapath.removeSide(this.#side);
    await datapath.removeIfEmpty();
  }

  /** Ended flows. */
  async drop(flows: readonly KeptFlow[]): Promise<void> {
    await this.#needs.datapath.removeLocals(flows.filter(({ localSide }) => localSide === this.#side));
    for (const flow of flows) this.flows.delete(flowKey(flow));
    this.#needs.save(this);
  }

  /** Until it is acknowledged, however long that takes: an `Announcement` gives up after a while. */
  async #announce(announcement: Announcement): Promise<void> {
    if (this.#arming !== undefined) await this.#arm(this.#arming);
    while (!announcement.isAcknowledged && !this.#stop.signal.aborted) await announcement.send();
    if (this.#stop.signal.aborted) return;
    await this.#settle(announcement).catch((error: unknown) => {
      this.#needs.log.warn({ peer: this.peer, error: messageOf(error) }, 'a host move could not be finished');
    });
    this.#needs.settled();
  }

  /** Written down before the MOVE is sent: a peer that has moved on knows nothing of the arming any more. */
  async #arm(arming: Arming): Promise<void> {
    if (!(await sendArming(this.#needs.socket, arming, this.#stop.signal))) return;
    this.#arming = undefined;
    this.#needs.save(this);
  }

  async #settle(announcement: Announcement): Promise<void> {
    const { datapath, registry, log, save } = this.#needs;
    const before = registry.get(this.cell);
    if (before === undefined) return;
    // First: an agent that comes back would not do it where it finds nothing to announce.
    await datapath.putSide(this.#sideIn('home', before));
    const cell = registry.get(this.cell);
    if (cell === undefined) return;
    const peers = cell.peers.filter(({ address }) => address !== this.peer);
    registry.put({ ...cell, ...this.#placesOf(cell), peers: [...peers, announcement.keys()] });
    this.#announcement = undefined;
    save(this);
    log.info(
      { cell: cell.name, peer: this.peer, ms: announcement.roundTripMs },
      'the peer knows the new address',
    );
    await this.#letOut();
    const all = [...this.flows.values()];
    if (cell.link !== undefined) await this.#giveBack(cell, all);
    else await datapath.removeLocals(all.filter((flow) => isPlain(flow) && flow.localSide === this.#side));
    for (const flow of all)
      if (isPlain(flow) || cell.link !== undefined)
        this.flows.set(flowKey(flow), { ...flow, localSide: cell.side });
    save(this);
    void this.#forgetFormer();
  }

  /** Datagrams that are said meanwhile wait, rather than being said from where the peer does not expect them. */
  async #hasRoomFor(halves: readonly LocalHalf[]): Promise<boolean> {
    const { datapath, log } = this.#needs;
    if (!halves.some(({ protocol }) => protocol === 'udp')) return false;
    const isThere = await datapath.openRoom(this.#side).catch(() => false);
    if (!isThere)
      log.warn({ peer: this.peer }, 'no room for datagrams: those said before the peer knows are dropped');
    return isThere;
  }

  async #letOut(): Promise<void> {
    if (!this.#waits) return;
    const { datapath, log } = this.#needs;
    const counts = await datapath.releaseRoom(this.#side).finally(() => {
      this.#waits = false;
    });
    if (counts !== undefined && counts.came > 0)
      log.info(
        { peer: this.peer, ...counts, lost: counts.came - counts.left },
        'datagrams have waited for this peer',
      );
  }

  /** And the side, where it is of no more use: the former ways in have needed it. */
  async #forgetFormer(): Promise<void> {
    const { datapath, registry, log, save } = this.#needs;
    const former = this.#former;
    if (former.length > 0)
      await sleep(FORMER_MS, undefined, { signal: this.#stop.signal }).catch(() => undefined);
    // Whoever closes it sees to that as well; and it may be on its way again.
    if (this.#stop.signal.aborted || this.isMoving) return;
    this.#isChanging = true;
    try {
      await datapath.removeWays(former);
      this.#former = this.#former.filter((way) => !former.includes(way));
      const cell = registry.isRegistered(this.cell) ? registry.get(this.cell) : undefined;
      this.#isEntered = cell?.link === undefined && this.isAway;
      if (!this.#isEntered) await datapath.removeSide(this.#side);
      save(this);
      await datapath.removeIfEmpty();
    } catch (error) {
      log.warn(
        { peer: this.peer, error: messageOf(error) },
        'what a host move has left behind is there still',
      );
    } finally {
      this.#isChanging = false;
    }
  }

  /** A cell with a network of its own has one side for all its peers. */
  async #giveBack(cell: Cell, flows: readonly KeptFlow[]): Promise<void> {
    const held = flows.filter(({ localSide }) => localSide === this.#side);
    await this.#needs.datapath.putLocals(entered(held).map((half) => ({ ...half, localSide: cell.side })));
  }

  /** Of a cell with a network of its own: whoever moves it on must know where it is. */
  #placesOf(cell: Cell): Pick<Cell, 'flows' | 'labels'> {
    if (cell.link === undefined) return { flows: cell.flows, labels: cell.labels };
    const now = labelsOf([...this.flows.values()]);
    const wires = new Map(now.map((label) => [endpointKey(label.protocol, label.virtual), label.wire]));
    return {
      flows: cell.flows.map((flow) => {
        const kept = this.flows.get(flowKey(flow));
        return kept === undefined ? flow : { ...flow, wireLocal: kept.wireLocal, path: kept.path };
      }),
      labels: cell.labels.map((label) => {
        const wire =
          label.peer === this.peer ? wires.get(endpointKey(label.protocol, label.virtual)) : undefined;
        return wire === undefined ? label : { ...label, wire };
      }),
    };
  }

  /** `queued`: what the peer says once it knows comes in, what is said to it waits to be said again. */
  #sideIn(state: 'queued' | 'home', { link }: Cell): Side {
    const waits = this.#waits;
    return { id: this.#side, state, active: 0, accept: acceptOf(0), ifindex: link?.ifindex ?? 0, waits };
  }
}

/** As many as can be announced. */
function sayable(labels: readonly Label[]): readonly Label[] {
  if (canArm(labels)) return labels;
  let [fits, tooMany] = [0, labels.length];
  while (tooMany - fits > 1) {
    const middle = Math.floor((fits + tooMany) / 2);
    if (canArm(labels.slice(0, middle))) fits = middle;
    else tooMany = middle;
  }
  return labels.slice(0, fits);
}

/** What the datapath is told of them. */
function entered(flows: readonly KeptFlow[]): LocalHalf[] {
  return flows.flatMap(({ known: _, isLoose, ...half }) => (isLoose ? [] : [half]));
}

function placeText({ wireLocal }: KeptFlow): string {
  return wireLocal.address;
}
