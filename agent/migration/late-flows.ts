/** What must not be committed, although all of it was saved: seen at the frozen process's sockets. */
import { endpointText, flowKey } from '../address.ts';
import { cutShort } from '../criu/unsaved.ts';
import { OsmosisError } from '../error.ts';
import { currentFlows } from '../proc/inspect.ts';
import { type InetSocket, inetSockets } from '../proc/sockets.ts';

/**
 * A connection that came up between the announcement and the freeze is unknown to its peer: go back and try again. `known`:
 * flowKeys of the others; `directory`: of the image.
 * @throws OsmosisError FLOWS_CHANGED
 */
export function checkFlows(pid: number, directory: string, known: ReadonlySet<string>): void {
  const sockets = inetSockets(pid);
  checkUnsaved(directory, sockets);
  const others = sockets.filter(
    (socket) =>
      socket.protocol === 'tcp' &&
      (socket.state === 'established' || socket.state === 'syn-sent') &&
      socket.inode !== 0 &&
      !known.has(flowKey(socket)),
  );
  if (others.length === 0) return;
  const news = currentFlows(pid).filter((flow) => !known.has(flowKey(flow)));
  if (news.length === 0) return;
  throw new OsmosisError(
    'FLOWS_CHANGED',
    `${news.length} new connections came up while the move was prepared; the process goes on at the source. Try again.`,
    { phase: 'freeze' },
  );
}

function checkUnsaved(directory: string, sockets: readonly InetSocket[]): void {
  const cut = cutShort(directory, sockets);
  if (cut === undefined) return;
  throw new OsmosisError(
    'FLOWS_CHANGED',
    `the process has not read urgent data of its connection with ${endpointText(cut.remote)}, and CRIU does not save what ` +
      'follows it; the process goes on at the source. Try again once it has read that.',
    { phase: 'freeze' },
  );
}
