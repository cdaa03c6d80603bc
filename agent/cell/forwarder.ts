/** Tells the peers of this host's cells, again and again, that new flows are to follow (FOLLOW), until the operator ends it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { endpointKey } from '../address.ts';
import type { AgentContext } from '../context.ts';
import { type Label, LEASE_SECONDS, type Result } from '../control/protocol.ts';
import { messageOf, OsmosisError } from '../error.ts';
import { sendUntilAcknowledged } from '../h2o/cell-side.ts';
import { listenersOf } from '../proc/inspect.ts';
import { socketIndex } from '../proc/socket-index.ts';
import { inetSockets } from '../proc/sockets.ts';
import { endedMax, FOLLOW_ROWS_MAX } from '../wire/h2o-follow.ts';
import { isDrop } from '../wire/h2o-layout.ts';
import { createFollow, deriveSession } from '../wire/h2o-session.ts';
import { acceptsAt, endpointsOf, labelsTo } from './forwarding.ts';
import { PROGRAM_LABELS } from './labels.ts';
import { adoptNewFlows } from './new-flows.ts';
import type { Cell, CellFlow, PeerKeys } from './registry.ts';

const LOOK_MS = 500;
/** A lease is renewed when this part of it is over: two attempts may fail. */
const RENEWED_AFTER = 1 / 3;
/** A peer that does not answer so long is told again when the lease is renewed next. */
const TELL_MS_MAX = 60_000;
/** Of which a command waits only this long. */
const WAIT_MS_MAX = 3_000;

export type Told = { readonly address: string; readonly until: number };

export class Forwarder {
  readonly #context: AgentContext;
  #timer: NodeJS.Timeout | undefined;
  /** By cell: when its peers are told next, in the time of performance.now(). */
  readonly #nextAt = new Map<string, number>();
  /** By cell and peer: until when the peer follows, as it has acknowledged; ms since the epoch. */
  readonly #told = new Map<string, Map<string, number>>();
  readonly #telling = new Map<string, AbortController>();
  /** By cell: new flows that have ended, and that the host which relays them has not been told of. */
  readonly #ended = new Map<string, CellFlow[]>();
  readonly #busy = new Set<string>();

  constructor(context: AgentContext) {
    this.#context = context;
  }

  start(): void {
    this.#timer = setInterval(() => this.#look(), LOOK_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
    for (const telling of this.#telling.values()) telling.abort();
  }

  /** Flows of a cell that have ended: another host may relay them, and can't see it. */
  ended(cell: Cell, flows: readonly CellFlow[]): void {
    const relayed = flows.filter((flow) => isRelayedElsewhere(cell, flow));
    if (relayed.length > 0) this.#ended.set(cell.id, [...(this.#ended.get(cell.id) ?? []), ...relayed]);
  }

  /** Peers that follow a cell of this host, as far as they have said so. */
  told(cell: string): Told[] {
    return [...(this.#told.get(cell) ?? [])].map(([address, until]) => ({ address, until }));
  }

  /** Begins it, or changes its lease; tells the peers. @throws OsmosisError USAGE where nobody could be told. */
  async begin(cell: Cell, lease_s: number, dryRun: boolean): Promise<{ cell: Cell; silent: string[] }> {
    const endpoints = cell.forwarding?.endpoints ?? this.#endpointsToBegin(cell);
    const since = cell.forwarding?.since ?? Date.now();
    const next: Cell = { ...cell, forwarding: { lease_s, since, endpoints } };
    if (dryRun) return { cell: next, silent: [] };
    const { datapath, registry } = this.#context;
    registry.put(next);
    if (cell.link !== undefined && cell.init !== undefined)
      await datapath.attachInside(`/proc/${cell.init.pid}/ns/net`, cell.link.ifindex);
    await datapath.putRules(acceptsAt(next));
    return { cell: next, silent: await this.tell(next) };
  }

  /** Endpoints that have a label here already, because a peer has connections with them. */
  #endpointsToBegin(cell: Cell): NonNullable<Cell['forwarding']>['endpoints'] {
    if (cell.link === undefined)
      throw new OsmosisError(
        'USAGE',
        `the cell ${cell.name} is at home: new connections reach it as they are; nothing was changed`,
      );
    const listening = endpointsOf(listenersOf(cell.pid), cell.addresses);
    const names = new Set(cell.labels.map(({ protocol, virtual }) => endpointKey(protocol, virtual)));
    const known = listening.filter((each) => names.has(endpointKey(each.protocol, each)));
    if (known.length === 0)
      throw new OsmosisError(
        'USAGE',
        `the cell ${cell.name} came here without connections to an endpoint that it listens on; nothing was changed. Move it with --forward-new.`,
      );
    return known.slice(0, FOLLOW_ROWS_MAX);
  }

  /** New flows do not follow from now on. Answers the peers that have not said that they know. */
  async end(cell: Cell, dryRun: boolean): Promise<string[]> {
    if (cell.forwarding === undefined || dryRun) return [];
    const { datapath, registry } = this.#context;
    const silent = await this.#tell(cell, 0);
    await datapath.removeRules(acceptsAt(cell));
    const { forwarding: _forwarding, ...rest } = await adoptNewFlows(this.#context, cell);
    registry.put(rest);
    this.#forget(cell.id);
    return silent;
  }

  /** Answers the peers that have not acknowledged within a short wait; they are told on. */
  async tell(cell: Cell): Promise<string[]> {
    const lease_s = cell.forwarding?.lease_s ?? 0;
    this.#nextAt.set(cell.id, performance.now() + lease_s * 1_000 * RENEWED_AFTER);
    return await this.#tell(cell, lease_s);
  }

  #look(): void {
    const { registry } = this.#context;
    const now = performance.now();
    for (const cell of registry.all()) {
      if (cell.forwarding === undefined || registry.isLocked(cell.id)) continue;
      if (now >= (this.#nextAt.get(cell.id) ?? 0)) void this.tell(cell);
    }
    for (const id of this.#ended.keys()) void this.#tellEnded(id);
    for (const id of this.#nextAt.keys()) if (registry.get(id)?.forwarding === undefined) this.#forget(id);
  }

  async #tellEnded(id: string): Promise<void> {
    const { registry, log } = this.#context;
    const cell = registry.get(id);
    if (cell === undefined) this.#ended.delete(id);
    if (cell === undefined || registry.isLocked(id) || this.#busy.has(id)) return;
    this.#busy.add(id);
    try {
      // Its port may be in use again meanwhile.
      const present = socketIndex(inetSockets(cell.pid).filter(({ state }) => state !== 'time-wait'));
      const flows = (this.#ended.get(id) ?? []).filter((flow) => !present.has(flow));
      this.#ended.delete(id);
      const byPeer = Map.groupBy(flows, ({ remote }) => relayOf(cell, remote.address));
      for (const [keys, its] of byPeer) {
        if (keys === undefined) continue;
        const lease_s = cell.forwarding?.lease_s ?? 0;
        const labels = lease_s === 0 ? [] : this.#rowsFor(cell, keys.address);
        const now = its.slice(0, endedMax(labels.length));
        keys.last++;
        registry.save(id);
        const ended = now.map(({ protocol, remote }) => ({ protocol, port: remote.port }));
        const body = { epoch: keys.last, leaseSeconds: labels.length === 0 ? 0 : lease_s, labels, ended };
        const signal = AbortSignal.timeout(WAIT_MS_MAX);
        const isTold = await this.#tellOne(id, keys, body, signal);
        const left = isTold ? its.slice(now.length) : its;
        if (left.length > 0) this.#ended.set(id, [...(this.#ended.get(id) ?? []), ...left]);
      }
    } catch (error) {
      log.warn({ cell: cell.name, error: messageOf(error) }, 'a relay could not be told of ended flows');
    } finally {
      this.#busy.delete(id);
    }
  }

  #rowsFor(cell: Cell, peer: string): Label[] {
    const rows = labelsTo(cell.forwarding?.endpoints ?? [], cell.labels);
    return rows.filter((row) => row.peer === peer).slice(0, FOLLOW_ROWS_MAX);
  }

  #forget(id: string): void {
    this.#telling.get(id)?.abort();
    for (const map of [this.#telling, this.#nextAt, this.#told]) map.delete(id);
  }

  async #tell(cell: Cell, lease_s: number): Promise<string[]> {
    const { registry, log } = this.#context;
    this.#telling.get(cell.id)?.abort();
    const telling = new AbortController();
    this.#telling.set(cell.id, telling);
    const signal = AbortSignal.any([telling.signal, AbortSignal.timeout(TELL_MS_MAX)]);
    const silent = new Set<string>();
    const told = cell.peers.map(async (keys) => {
      const labels = this.#rowsFor(cell, keys.address);
      if (labels.length === 0 || keys.peerPublicKey === undefined) return;
      silent.add(keys.address);
      keys.last++;
      registry.save(cell.id);
      const sentAt = Date.now();
      const rows = lease_s === 0 ? [] : labels;
      const body = { epoch: keys.last, leaseSeconds: lease_s, labels: rows, ended: [] };
      if (!(await this.#tellOne(cell.id, keys, body, signal))) return;
      silent.delete(keys.address);
      const until = this.#told.get(cell.id) ?? new Map<string, number>();
      this.#told.set(cell.id, until.set(keys.address, sentAt + lease_s * 1_000));
    });
    const all = Promise.all(told).catch((error: unknown) =>
      log.warn({ cell: cell.name, error: messageOf(error) }, 'peers could not be told of new flows'),
    );
    await Promise.race([all, sleep(WAIT_MS_MAX, undefined, { ref: false })]);
    return [...silent];
  }

  async #tellOne(
    cell: string,
    { address, epoch: pairEpoch, publicKey, secretKey, peerPublicKey }: PeerKeys,
    body: Parameters<typeof createFollow>[1],
    signal: AbortSignal,
  ): Promise<boolean> {
    if (peerPublicKey === undefined) return false;
    const id = new Uint8Array(Buffer.from(cell, 'hex'));
    const pair = { cell: id, epoch: pairEpoch, cellPublicKey: publicKey, peerPublicKey };
    const session = deriveSession({ ...pair, secretKey, role: 'cell' });
    if (isDrop(session)) return false;
    const sent = { type: 'follow', epoch: body.epoch } as const;
    const datagram = createFollow(session, body);
    const ack = await sendUntilAcknowledged(
      this.#context.socket,
      address,
      { session, sent, datagram },
      signal,
    );
    return ack !== undefined;
  }
}

/** A newcomer that the cell's old home relays: to the cell it comes from an address of its own, and a program's label. */
function isRelayedElsewhere({ addresses }: Cell, { remote }: CellFlow): boolean {
  const { first, count } = PROGRAM_LABELS;
  return addresses.includes(remote.address) && remote.port >= first && remote.port < first + count;
}

/** The pair with the host whose address that is: with that address, or another one of the cell's in its family. */
function relayOf({ peers, addresses }: Cell, address: string): PeerKeys | undefined {
  const isAlike = (other: string) =>
    addresses.includes(other) && other.includes(':') === address.includes(':');
  return peers.find((keys) => keys.address === address) ?? peers.find((keys) => isAlike(keys.address));
}

/** Begins, changes or ends it for one cell, as the operator says. @throws OsmosisError BUSY, USAGE */
export async function forward(
  { registry }: Pick<AgentContext, 'registry'>,
  forwarder: Forwarder,
  cell: Cell,
  { lease_s, end, dry_run }: { lease_s?: number | undefined; end: boolean; dry_run: boolean },
): Promise<Result<'forward'>> {
  registry.checkFree(cell.id);
  const { name, peers } = cell;
  const lease = end ? 0 : (lease_s ?? cell.forwarding?.lease_s ?? LEASE_SECONDS);
  const { forwarding, silent } = end
    ? { forwarding: cell.forwarding, silent: await forwarder.end(cell, dry_run) }
    : await forwarder.begin(cell, lease, dry_run).then((begun) => ({ ...begun.cell, ...begun }));
  const endpoints = [...(forwarding?.endpoints ?? [])];
  const rows = labelsTo(endpoints, cell.labels);
  const told = peers
    .map(({ address }) => address)
    .filter((address) => rows.some(({ peer }) => peer === address));
  return { cell: name, lease_s: lease, endpoints, peers: told, silent };
}
