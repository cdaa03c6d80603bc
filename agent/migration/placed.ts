/** Where the other ends of a cell's flows are now, as the datapath of its host knows. */
import { type Flow, flowKey, type PlacedFlow } from '../address.ts';
import type { Cell } from '../cell/registry.ts';
import type { Datapath } from '../datapath/datapath.ts';
import type { FlowId } from '../datapath/model.ts';

/** The flows as the datapath names them. */
export function flowIds({ link }: Pick<Cell, 'link'>, flows: readonly Flow[]): FlowId[] {
  const scope = link?.ifindex ?? 0;
  return flows.map(({ protocol, local, remote }) => ({ protocol, local, remote, scope }));
}

export async function placeFlows(
  datapath: Datapath,
  cell: Cell,
  flows: readonly Flow[],
): Promise<PlacedFlow[]> {
  const places = await datapath.places(flowIds(cell, flows));
  const known = new Map((cell.known ?? []).map((flow) => [flowKey(flow), flow.known]));
  const relayed = new Set(cell.flows.filter((flow) => flow.relayed).map((flow) => flowKey(flow)));
  return flows.map(({ protocol, local, remote }, index) => {
    const name = known.get(flowKey({ protocol, local, remote }));
    const at = places[index]?.endpoint ?? remote;
    const flow = { protocol, local, remote, at, ...(name === undefined ? {} : { known: name }) };
    return relayed.has(flowKey(flow)) ? { ...flow, relayed: true } : flow;
  });
}
