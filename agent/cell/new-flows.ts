/**
 * Flows of this host's cells that the datapath's programs have created by rules: the agent learns of them when they are to
 * be moved or claimed, and takes them out when their sockets have ended.
 */
import { type Endpoint, endpointText, type Flow, flowKey } from '../address.ts';
import { belongsTo, endedFlows } from '../datapath/created.ts';
import type { Datapath } from '../datapath/datapath.ts';
import type { LocalHalf } from '../datapath/model.ts';
import { type SocketIndex, socketIndex } from '../proc/socket-index.ts';
import { inetSockets } from '../proc/sockets.ts';
import { isLabel } from './labels.ts';
import type { Cell, Registry } from './registry.ts';

/** A look reads four maps of the datapath: some 50 ms of a core. */
const LOOK_MS = 3_000;

/** A flow whose other end takes `known` for our endpoint: it began when the cell had moved already. */
export type KnownFlow = Flow & { readonly known: Endpoint };
export type NewFlow = LocalHalf & { readonly known?: Endpoint };

type Needs = { readonly datapath: Datapath; readonly registry: Registry };

/** Read afresh: what the cell has beyond `cell.flows`. */
export async function newFlowsOf(datapath: Datapath, { link, flows }: Cell): Promise<NewFlow[]> {
  if (link === undefined || !datapath.isRuled) return [];
  const listed = new Set(flows.map((flow) => flowKey(flow)));
  const created = (await datapath.refresh()).filter(belongsTo({ scope: link.ifindex }));
  const halves = await datapath.locals(created.filter((flow) => !listed.has(flowKey(flow))));
  return halves.flatMap((half) => (half === undefined ? [] : [withName(half)]));
}

/**
 * Behind a label that the agent has drawn the other end knows the cell by its virtual endpoint, as it has been told; what
 * else it sees on the wire it takes for the endpoint itself.
 */
function withName(half: LocalHalf): NewFlow {
  const { local, wireLocal } = half;
  const isItself = isLabel(wireLocal.port) || endpointText(wireLocal) === endpointText(local);
  return isItself ? half : { ...half, known: wireLocal };
}

/**
 * From now on they are flows of the cell as those that it came with: all, or those among `wanted`. Answers with the cell as
 * it is registered then.
 */
export async function adoptNewFlows(
  { datapath, registry }: Needs,
  cell: Cell,
  wanted?: readonly Flow[],
): Promise<Cell> {
  const keys = wanted && new Set(wanted.map((flow) => flowKey(flow)));
  const news = (await newFlowsOf(datapath, cell)).filter((flow) => keys?.has(flowKey(flow)) ?? true);
  if (news.length === 0) return registry.get(cell.id) ?? cell;
  const halves = news.map(({ known: _, ...half }) => half);
  await datapath.putLocals(halves);
  const current = registry.get(cell.id) ?? cell;
  const next = {
    ...current,
    flows: [...current.flows, ...halves],
    known: [...(current.known ?? []), ...knownFlows(news)],
  };
  registry.put(next);
  return next;
}

export function knownFlows(
  flows: readonly (Flow & { readonly known?: Endpoint | undefined })[],
): KnownFlow[] {
  return flows.flatMap(({ protocol, local, remote, known }) =>
    known === undefined ? [] : [{ protocol, local, remote, known }],
  );
}

/** Takes out created flows of sockets on this host, in cells or not, once they have been without a socket twice. */
export class NewFlowSweep {
  readonly #needs: Needs;
  #suspects: ReadonlySet<string> = new Set();
  #lookedAt = 0;

  constructor(needs: Needs) {
    this.#needs = needs;
  }

  async look(): Promise<void> {
    const { datapath, registry } = this.#needs;
    if (!datapath.isRuled || performance.now() - this.#lookedAt < LOOK_MS) return;
    this.#lookedAt = performance.now();
    const flows = await datapath.refresh();
    const indexes = new Map<number, SocketIndex>([[0, indexOf('self')]]);
    for (const { init, link } of registry.all())
      if (init !== undefined && link !== undefined) indexes.set(link.ifindex, indexOf(init.pid));
    const look = endedFlows(flows, (flow) => indexes.get(flow.scope)?.has(flow) ?? true, this.#suspects);
    this.#suspects = look.suspects;
    const ended = new Set(look.ended.map((flow) => `${flow.scope} ${flowKey(flow)}`));
    if (ended.size > 0) await datapath.removeCreated((flow) => ended.has(`${flow.scope} ${flowKey(flow)}`));
    // Labels of flows that the agent has taken over are free with them, and that nobody else looks at.
    else await datapath.removeCreated(() => false);
    await datapath.removeIfEmpty();
  }
}

function indexOf(pid: number | 'self'): SocketIndex {
  return socketIndex(inetSockets(pid).filter(({ state }) => state !== 'listen' && state !== 'time-wait'));
}
