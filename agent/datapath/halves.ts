/** Composes the entries of flows out of what the owners of their two ends say. Pure, as table.ts. */
import { isSameEndpoint } from '../address.ts';
import type { FlowEntry, FlowId, LocalHalf, RemoteHalf, Side, WireSlot } from './model.ts';
import { type Change, type FlowTable, keyOf, putFlow, removeFlow } from './table.ts';

type Halves = { readonly local?: LocalHalf; readonly remote?: RemoteHalf };

/** Enters or replaces the local half; the remote one stays as it is. Throws before anything is changed. */
export function putLocal(table: FlowTable, local: LocalHalf): Change[] {
  return putFlow(table, compose({ ...halvesOf(table, local), local }));
}

export function putRemote(table: FlowTable, remote: RemoteHalf): Change[] {
  return putFlow(table, compose({ ...halvesOf(table, remote), remote }));
}

/** No change where there is none. */
export function removeLocal(table: FlowTable, id: FlowId): Change[] {
  const { local, remote } = halvesOf(table, id);
  if (local === undefined) return [];
  return remote === undefined ? removeFlow(table, id) : putFlow(table, compose({ remote }));
}

export function removeRemote(table: FlowTable, id: FlowId): Change[] {
  const { local, remote } = halvesOf(table, id);
  if (remote === undefined) return [];
  return local === undefined ? removeFlow(table, id) : putFlow(table, compose({ local }));
}

/** Where packets of a flow go now; undefined where nobody has said anything of its remote end. */
export function remotePlace(
  table: FlowTable,
  sides: ReadonlyMap<number, Side>,
  id: FlowId,
): WireSlot | undefined {
  const remote = halvesOf(table, id).remote;
  return remote?.wireRemote[sides.get(remote.remoteSide)?.active ?? 0];
}

/** What an entry says, taken apart again: an entry that was adopted from the kernel has no other memory. */
export function halvesOf(table: FlowTable, id: FlowId): Halves {
  const entry = table.flows.get(keyOf(id));
  if (entry === undefined) return {};
  const { protocol, local, remote, scope, wireRemote, remoteSide } = entry;
  const half = halfOf(entry);
  return {
    ...(half && { local: half }),
    ...(remoteSide === 0 ? {} : { remote: { protocol, local, remote, scope, wireRemote, remoteSide } }),
  };
}

/** What the owner of the local end has said of an entry; undefined where that end is as it always was. */
export function halfOf(entry: FlowEntry): LocalHalf | undefined {
  const { protocol, local, remote, scope, wireLocal, wireRemote, localSide, via } = entry;
  if (localSide === 0 && via === 0 && isSameEndpoint(wireLocal, local)) return undefined;
  const path = wireRemote.find((slot) => slot?.endpoint.address === remote.address) ?? wireRemote[0];
  return { protocol, local, remote, scope, wireLocal, localSide, via, path: path?.ifindex ?? 0 };
}

function compose({ local, remote }: Halves): FlowEntry {
  const id = local ?? remote;
  if (id === undefined) throw new RangeError('a flow entry needs one half at least');
  return {
    protocol: id.protocol,
    local: id.local,
    remote: id.remote,
    scope: id.scope,
    wireLocal: local?.wireLocal ?? id.local,
    localSide: local?.localSide ?? 0,
    via: local?.via ?? 0,
    wireRemote: remote?.wireRemote ?? [{ endpoint: id.remote, ifindex: local?.path ?? 0 }, undefined],
    remoteSide: remote?.remoteSide ?? 0,
  };
}
