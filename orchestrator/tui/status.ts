/** What an agent says of its host, as the model has it; rates come out of two answers. */

import type { Result } from '../../agent/control/protocol.ts';
import type { CellTraffic } from '../../agent/control/traffic-protocol.ts';
import type { CellView, HostView, PeerView } from './model.ts';

const SECOND_MS = 1_000;

export function hostUp(
  before: HostView,
  { version, host, cells, cordon }: Result<'status'>,
  traffic: readonly CellTraffic[],
  nowMs: number,
): HostView {
  const elapsedMs = nowMs - (before.seenMs ?? nowMs);
  return {
    name: before.name,
    state: 'up',
    version,
    load: host.load,
    cpus: host.cpus,
    roomBytes: host.room_bytes,
    cordoned: cordon !== undefined,
    seenMs: nowMs,
    cells: cells.map(({ id, name, pid, command, home }): CellView => {
      const known = before.cells.find((cell) => cell.id === id);
      const peers = traffic.find(({ cell }) => cell === id)?.peers ?? [];
      return {
        id,
        name,
        pid,
        command,
        home,
        peers: peers.map((peer) =>
          peerView(
            peer,
            known?.peers.find(({ address }) => address === peer.address),
            elapsedMs,
          ),
        ),
      };
    }),
  };
}

function peerView(
  { address, flows, bytes_in, bytes_out }: CellTraffic['peers'][number],
  before: PeerView | undefined,
  elapsedMs: number,
): PeerView {
  // Connections that ended take what they had carried with them.
  const rate = (now: number, then: number | undefined) =>
    then === undefined || elapsedMs <= 0 ? 0 : Math.max(0, ((now - then) * SECOND_MS) / elapsedMs);
  return {
    address,
    flows,
    bytesIn: bytes_in,
    bytesOut: bytes_out,
    inPerS: rate(bytes_in, before?.bytesIn),
    outPerS: rate(bytes_out, before?.bytesOut),
  };
}
