/** Where the other ends of a cell's flows are now, as the datapath of its host knows. */
import { type Flow, flowKey, isLinkLocal, isLoopback, type PlacedFlow } from '../address.ts';
import type { Cell } from '../cell/registry.ts';
import type { Datapath } from '../datapath/datapath.ts';
import type { FlowId } from '../datapath/model.ts';
import type { SourcedFlow } from '../h2o/cell-side.ts';
import { ownInterfaceAddresses } from '../host/routes.ts';

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

/** With the address of this host that each flow's other end takes it to be at: a HELLO about it has to come from there. */
export async function withSources(
  datapath: Datapath,
  cell: Cell,
  flows: readonly PlacedFlow[],
): Promise<SourcedFlow[]> {
  const own = new Set(ownInterfaceAddresses().map(({ address }) => address));
  const locals = await datapath.locals(flowIds(cell, flows));
  return flows.map((flow, index) => {
    // Without an entry it is where it began.
    const address = locals[index]?.wireLocal.address ?? flow.local.address;
    const isNamed = own.has(address) && !isLoopback(address) && !isLinkLocal(address);
    return isNamed ? { ...flow, source: address } : flow;
  });
}
