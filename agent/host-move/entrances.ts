/**
 * Where new connections come to a cell with a network of its own: by its old endpoints, which peers follow (FOLLOW), and by
 * those that are published. Both name an address of this host, and go with it when it has another one.
 */
import { endpointKey } from '../address.ts';
import { acceptsAt, labelsTo } from '../cell/forwarding.ts';
import { placeOf } from '../cell/openings.ts';
import type { Publication } from '../cell/publication.ts';
import type { Cell } from '../cell/registry.ts';
import type { AgentContext } from '../context.ts';
import type { Label } from '../control/protocol.ts';
import type { Accept } from '../datapath/rules.ts';
import { messageOf } from '../error.ts';

type Needs = Pick<AgentContext, 'datapath' | 'openings' | 'registry' | 'log'> & {
  /** Tells the peers that follow the cell what its labels are now. */
  readonly retell: (cell: Cell) => void;
};

/** Of this host as it is now. */
export type Here = {
  readonly usable: ReadonlySet<string>;
  /** With which address it reaches a peer; undefined where there is none at the moment. */
  readonly sourceTo: (peer: string) => Promise<string | undefined>;
  /** Peers that a MOVE of this cell is under way to: their labels are that one's. */
  readonly isMoving: (peer: string) => boolean;
};

export class Entrances {
  readonly #needs: Needs;

  constructor(needs: Needs) {
    this.#needs = needs;
  }

  /** Nothing where all of it is at an address that this host has. */
  async follow(cell: Cell, here: Here): Promise<void> {
    if (placeOf(cell) === undefined) return;
    if (cell.forwarding !== undefined) await this.#forward(cell, here);
    for (const publication of cell.published ?? []) await this.#republish(cell.id, publication, here);
  }

  async #forward(cell: Cell, here: Here): Promise<void> {
    const { datapath, registry, retell } = this.#needs;
    const moved = await movedLabels(cell, here);
    // Another step may have changed it meanwhile.
    const now = registry.get(cell.id);
    if (now === undefined || registry.isLocked(cell.id)) return;
    const labels = now.labels.map((label) => moved.get(labelKey(label)) ?? label);
    const next = { ...now, labels };
    if (moved.size > 0) registry.put(next);
    const there = (await datapath.rules()).filter(
      (rule): rule is Accept => rule.kind === 'accept' && rule.scope === cell.link?.ifindex,
    );
    const wanted = acceptsAt(next);
    const has = new Set(there.map(wireKey));
    const isNew = wanted.some((rule) => !has.has(wireKey(rule)));
    // It may have ended while the rules were looked at: nobody would take these away.
    if (registry.get(cell.id) === undefined || registry.isLocked(cell.id)) return;
    if (isNew) await datapath.putRules(wanted);
    const stay = new Set([...wanted, ...(next.published ?? [])].map(wireKey));
    const gone = there.filter((rule) => !stay.has(wireKey(rule)) && !here.usable.has(rule.wire.address));
    if (gone.length > 0) await datapath.removeRules(gone);
    if (isNew || moved.size > 0) retell(next);
  }

  /** First at the new address: where its port is taken there, it stays as it is, and the log says so. */
  async #republish(id: string, publication: Publication, { usable, sourceTo }: Here): Promise<void> {
    const { openings, registry, log } = this.#needs;
    const { protocol, wire, local } = publication;
    if (usable.has(wire.address)) return;
    const address = await newAddress(wire.address, usable, sourceTo);
    const cell = registry.get(id);
    const place = cell && placeOf(cell);
    if (address === undefined || cell === undefined || place === undefined || registry.isLocked(id)) return;
    const next: Publication = { protocol, wire: { address, port: wire.port }, local };
    const others = (cell.published ?? []).filter((each) => wireKey(each) !== wireKey(publication));
    try {
      if (!others.some((each) => wireKey(each) === wireKey(next))) await openings.publish(place, [next]);
      await openings.unpublish([publication]);
    } catch (error) {
      const why = { cell: cell.name, at: wireKey(next), error: messageOf(error) };
      log.warn(why, 'this host has another address: the cell could not be published there');
      return;
    }
    const now = registry.get(id);
    // It has ended, or gone, meanwhile: nobody would take this away.
    if (now === undefined) return await openings.unpublish([next]);
    const kept = others.filter((each) => wireKey(each) !== wireKey(next));
    registry.put({ ...now, published: [...kept, next] });
    log.info({ cell: cell.name, from: wireKey(publication), to: wireKey(next) }, 'published anew');
  }
}

/** Rows that name an address which this host has no longer, as they are to be, by `labelKey`. */
async function movedLabels({ forwarding, labels }: Cell, here: Here): Promise<Map<string, Label>> {
  const moved = new Map<string, Label>();
  for (const label of labelsTo(forwarding?.endpoints ?? [], labels)) {
    const { peer, wire } = label;
    if (here.usable.has(wire.address) || here.isMoving(peer)) continue;
    const address = await here.sourceTo(peer);
    if (address === undefined || address.includes(':') !== wire.address.includes(':')) continue;
    moved.set(labelKey(label), { ...label, wire: { address, port: wire.port } });
  }
  return moved;
}

/** Of the same family: that of the route to anywhere, if it says. */
async function newAddress(
  old: string,
  usable: ReadonlySet<string>,
  sourceTo: Here['sourceTo'],
): Promise<string | undefined> {
  const isV6 = old.includes(':');
  const source = await sourceTo(isV6 ? '2000::' : '192.0.2.1');
  const alike = [...usable].filter((address) => address.includes(':') === isV6);
  return source !== undefined && alike.includes(source) ? source : alike[0];
}

function labelKey({ protocol, virtual, peer }: Label): string {
  return `${endpointKey(protocol, virtual)} ${peer}`;
}

function wireKey({ protocol, wire }: Pick<Accept, 'protocol' | 'wire'>): string {
  return endpointKey(protocol, wire);
}
