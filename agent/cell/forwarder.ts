/** Tells the peers of this host's cells, again and again, that new flows are to follow (FOLLOW), until the operator ends it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { endpointKey, flowKey } from '../address.ts';
import type { AgentContext } from '../context.ts';
import { type Label, LEASE_SECONDS, type Result } from '../control/protocol.ts';
import { messageOf, OsmosisError } from '../error.ts';
import { listenersOf } from '../proc/inspect.ts';
import { type Ended, FOLLOW_ROWS_MAX } from '../wire/h2o-follow.ts';
import { type FollowContent, FollowTalk } from './follow-talk.ts';
import { acceptsAt, endpointsOf, labelsTo } from './forwarding.ts';
import { PROGRAM_LABELS } from './labels.ts';
import { adoptNewFlows } from './new-flows.ts';
import type { Cell, CellFlow, PeerKeys } from './registry.ts';

const LOOK_MS = 500;
/** A lease is renewed when this part of it is over: two attempts may fail. */
const RENEWED_AFTER = 1 / 3;
/** A command waits only this long for the peers; they are told on. */
const WAIT_MS_MAX = 3_000;

export type Told = { readonly address: string; readonly until: number };

export class Forwarder {
  readonly #context: AgentContext;
  #timer: NodeJS.Timeout | undefined;
  /** By cell: when its peers are told next, in the time of performance.now(). */
  readonly #nextAt = new Map<string, number>();
  /** By cell and address of the peer. */
  readonly #talks = new Map<string, Map<string, FollowTalk>>();

  constructor(context: AgentContext) {
    this.#context = context;
  }

  start(): void {
    this.#timer = setInterval(() => this.#look(), LOOK_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
    for (const id of [...this.#talks.keys()]) this.#forget(id);
  }

  /** Flows of a cell that have ended, which not every other end can see by itself. */
  ended(cell: Cell, flows: readonly CellFlow[]): void {
    for (const { protocol, remote } of relayedEnds(cell, flows))
      this.#over(cell, relayOf(cell, remote.address), { protocol, port: remote.port });
    for (const { protocol, remote, wireLocal } of endedEndpoints(cell, flows))
      this.#over(
        cell,
        cell.peers.find(({ address }) => address === remote.address),
        { protocol, port: wireLocal.port, ofCell: true },
      );
  }

  #over({ id }: Cell, keys: PeerKeys | undefined, ended: Ended): void {
    if (keys?.peerPublicKey !== undefined && keys.epoch > 0) this.#talk(id, keys.address).over([ended]);
  }

  /** Peers that follow a cell of this host, as far as they have said so. */
  told(cell: string): Told[] {
    return [...(this.#talks.get(cell) ?? [])].flatMap(([address, { until }]) =>
      until === undefined ? [] : [{ address, until }],
    );
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
    return { cell: next, silent: await this.#tell(next) };
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
    const { forwarding: _forwarding, ...rest } = cell;
    registry.put(rest);
    this.#nextAt.delete(cell.id);
    const silent = await this.#tell(cell);
    await datapath.removeRules(acceptsAt(cell));
    await adoptNewFlows(this.#context, rest);
    return silent;
  }

  #look(): void {
    const { registry } = this.#context;
    const now = performance.now();
    for (const cell of registry.all()) {
      if (cell.forwarding === undefined || registry.isLocked(cell.id)) continue;
      if (now < (this.#nextAt.get(cell.id) ?? 0)) continue;
      this.#nextAt.set(cell.id, now + cell.forwarding.lease_s * 1_000 * RENEWED_AFTER);
      for (const { address } of followersOf(cell)) void this.#talk(cell.id, address).say();
    }
    for (const [id, talks] of this.#talks) {
      if (!registry.isRegistered(id)) this.#forget(id);
      else for (const talk of talks.values()) if (talk.isWaiting) void talk.say();
    }
  }

  #forget(id: string): void {
    for (const talk of this.#talks.get(id)?.values() ?? []) talk.stop();
    this.#talks.delete(id);
    this.#nextAt.delete(id);
  }

  /** Its labels are others now, such as after this host has got another address. */
  retell(cell: Cell): void {
    void this.#tell(cell);
  }

  /** What it has now. Answers the peers that have not acknowledged within a short wait; they are told on. */
  async #tell(cell: Cell): Promise<string[]> {
    const silent = new Set<string>();
    const told = followersOf(cell).map(async ({ address }) => {
      silent.add(address);
      if (await this.#talk(cell.id, address).say()) silent.delete(address);
    });
    await Promise.race([Promise.all(told), sleep(WAIT_MS_MAX, undefined, { ref: false })]);
    return [...silent];
  }

  #talk(id: string, peer: string): FollowTalk {
    const talks = this.#talks.get(id) ?? new Map<string, FollowTalk>();
    const { socket, log } = this.#context;
    const known = talks.get(peer);
    const talk =
      known ??
      new FollowTalk(id, {
        socket,
        content: () => this.#contentFor(id, peer),
        takeKeys: () => this.#takeKeys(id, peer),
        warn: (error) =>
          log.warn({ cell_id: id, peer, error: messageOf(error) }, 'a peer could not be told of new flows'),
      });
    this.#talks.set(id, talks.set(peer, talk));
    return talk;
  }

  /** Nothing while the cell is being moved: epochs are the migration's then. */
  #contentFor(id: string, peer: string): FollowContent | undefined {
    const { registry } = this.#context;
    const cell = registry.get(id);
    if (cell === undefined || registry.isLocked(id)) return undefined;
    const labels = rowsFor(cell, peer);
    return labels.length === 0
      ? { leaseSeconds: 0, labels }
      : { leaseSeconds: cell.forwarding?.lease_s ?? 0, labels };
  }

  #takeKeys(id: string, peer: string): PeerKeys | undefined {
    const { registry } = this.#context;
    const keys = registry.get(id)?.peers.find(({ address }) => address === peer);
    if (keys === undefined) return undefined;
    keys.last++;
    registry.save(id);
    return keys;
  }
}

function rowsFor(cell: Cell, peer: string): Label[] {
  const rows = labelsTo(cell.forwarding?.endpoints ?? [], cell.labels);
  return rows.filter((row) => row.peer === peer).slice(0, FOLLOW_ROWS_MAX);
}

/** Peers that can be told: there is a row for each, and a pair with it. */
function followersOf(cell: Cell): PeerKeys[] {
  return cell.peers.filter(
    ({ address, peerPublicKey }) => peerPublicKey !== undefined && rowsFor(cell, address).length > 0,
  );
}

/**
 * Flows of UDP sockets that are gone, one for each peer: a socket at the other end that is bound for anybody is there still.
 * Flows of TCP end at both ends.
 */
export function endedEndpoints(cell: Cell, flows: readonly CellFlow[]): CellFlow[] {
  const ended = new Set(flows.map((flow) => flowKey(flow)));
  const nameOf = ({ protocol, wireLocal }: CellFlow) => endpointKey(protocol, wireLocal);
  const inUse = new Set(cell.flows.filter((flow) => !ended.has(flowKey(flow))).map(nameOf));
  const gone = flows.filter((flow) => flow.protocol === 'udp' && !inUse.has(nameOf(flow)));
  return [...new Map(gone.map((flow) => [`${nameOf(flow)} ${flow.remote.address}`, flow])).values()];
}

/** The other ends of these flows that a relay holds for them alone: it has one port for all flows of an endpoint. */
export function relayedEnds(cell: Cell, flows: readonly CellFlow[]): CellFlow[] {
  const ended = new Set(flows.map((flow) => flowKey(flow)));
  const inUse = new Set(
    cell.flows
      .filter((flow) => !ended.has(flowKey(flow)))
      .map(({ protocol, remote }) => endpointKey(protocol, remote)),
  );
  return flows.filter(
    (flow) => isRelayedElsewhere(cell, flow) && !inUse.has(endpointKey(flow.protocol, flow.remote)),
  );
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
