/**
 * Flows of this host's cells that the datapath's programs have created by rules: the agent reads them from time to time, and
 * when they are to be moved or claimed. From then on they are flows of their cell as those that it came with, and end with
 * their sockets (keeper.ts). Those that follow a cell to another host are looked after in h2o/follows.ts.
 */
import { type Endpoint, type Flow, flowKey, isSameEndpoint } from '../address.ts';
import { belongsTo } from '../datapath/created.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { halfOf } from '../datapath/halves.ts';
import type { LocalHalf } from '../datapath/model.ts';
import { keyOf } from '../datapath/table.ts';
import { RELAY_UDP_IDLE_MS_MAX } from '../h2o/relays.ts';
import { isLabel } from './labels.ts';
import type { Cell, Registry } from './registry.ts';

/** A look reads four maps of the datapath: some 50 ms of a core. */
const LOOK_MS = 4_000;
/** Of datagrams nobody says goodbye, and a rule may create only so many flows at a time. */
const IDLE_LOOK_MS = 30_000;

/** A flow whose other end takes `known` for our endpoint: it began when the cell had moved already. */
export type KnownFlow = Flow & { readonly known: Endpoint };
type NewFlow = LocalHalf & { readonly known?: Endpoint };

type Needs = { readonly datapath: Datapath; readonly registry: Registry };

/** Answers with the cell as it is registered then: with all flows that it has now. */
export async function adoptNewFlows({ datapath, registry }: Needs, cell: Cell): Promise<Cell> {
  const { id, link } = cell;
  const created =
    link === undefined || !datapath.isRuled
      ? []
      : (await datapath.refresh()).filter(belongsTo({ scope: link.ifindex }));
  const current = registry.get(id) ?? cell;
  const listed = new Set(current.flows.map((flow) => flowKey(flow)));
  const news = created
    .filter((flow) => !listed.has(flowKey(flow)))
    .flatMap((entry): NewFlow[] => {
      const half = halfOf(entry);
      return half === undefined ? [] : [withName(half)];
    });
  // It may have ended, or gone, in the meantime.
  if (news.length === 0 || !registry.isRegistered(id)) return current;
  const next = {
    ...current,
    flows: [...current.flows, ...news.map(({ known: _, ...half }) => half)],
    known: [...(current.known ?? []), ...knownFlows(news)],
  };
  registry.put(next);
  return next;
}

/**
 * Behind a label that the agent has drawn the other end knows the cell by its virtual endpoint, as it has been told; what
 * else it sees on the wire it takes for the endpoint itself.
 */
function withName(half: LocalHalf): NewFlow {
  const { local, wireLocal } = half;
  const isItself = isLabel(wireLocal.port) || isSameEndpoint(wireLocal, local);
  return isItself ? half : { ...half, known: wireLocal };
}

export function knownFlows(
  flows: readonly (Flow & { readonly known?: Endpoint | undefined })[],
): KnownFlow[] {
  return flows.flatMap(({ protocol, local, remote, known }) =>
    known === undefined ? [] : [{ protocol, local, remote, known }],
  );
}

export class NewFlowSweep {
  readonly #needs: Needs;
  #lookedAt = 0;
  #idleLookedAt = 0;

  constructor(needs: Needs) {
    this.#needs = needs;
  }

  async look(): Promise<void> {
    const { datapath } = this.#needs;
    const cells = this.#cells();
    if (cells.length === 0 || !datapath.isRuled || performance.now() - this.#lookedAt < LOOK_MS) return;
    this.#lookedAt = performance.now();
    for (const cell of cells) await adoptNewFlows(this.#needs, cell);
    const idle = await this.#takeIdle();
    // Labels of flows that have ended are free, and rules may create as many flows anew.
    await datapath.removeCreated((flow) => idle.has(keyOf(flow)));
  }

  #cells(): Cell[] {
    const { registry } = this.#needs;
    return registry.all().filter(({ id, link }) => link !== undefined && !registry.isLocked(id));
  }

  /**
   * Flows of UDP that were created and have been silent for as long as relayed ones are kept: their cells have them no more.
   * Who speaks again begins anew. By `keyOf`.
   */
  async #takeIdle(): Promise<Set<string>> {
    const { datapath, registry } = this.#needs;
    if (performance.now() - this.#idleLookedAt < IDLE_LOOK_MS) return new Set();
    this.#idleLookedAt = performance.now();
    const idle = await datapath.idle(RELAY_UDP_IDLE_MS_MAX);
    const taken = new Set<string>();
    for (const cell of this.#cells()) {
      const its = idle.filter(belongsTo({ scope: cell.link?.ifindex ?? 0 }));
      if (its.length === 0) continue;
      const gone = new Set(its.map((flow) => flowKey(flow)));
      const rest = (flow: Flow) => !gone.has(flowKey(flow));
      registry.put({ ...cell, flows: cell.flows.filter(rest), known: (cell.known ?? []).filter(rest) });
      for (const flow of its) taken.add(keyOf(flow));
    }
    return taken;
  }
}
