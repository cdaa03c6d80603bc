/** Ends connections of a cell for it: its process and the other end see a reset, not silence. */
import { execa } from 'execa';
import { endpointText, type Flow } from '../address.ts';
import { insideArgv, type Namespaces } from '../criu/argv.ts';

const KILL_MS_MAX = 5_000;
/** Connections that one ss(8) is told to end. */
const AT_ONCE_MAX = 100;

/** Exactly these connections; those that are not there are no error. Of UDP there is nothing to end. */
export async function endConnections(namespaces: Namespaces, flows: readonly Flow[]): Promise<void> {
  const tcp = flows.filter(({ protocol }) => protocol === 'tcp');
  for (let first = 0; first < tcp.length; first += AT_ONCE_MAX) {
    const [file = '', ...args] = insideArgv(namespaces, killArgv(tcp.slice(first, first + AT_ONCE_MAX)));
    await execa(file, args, { reject: false, timeout: KILL_MS_MAX });
  }
}

/** ss(8), with a filter that no other connection passes. */
export function killArgv(flows: readonly Flow[]): string[] {
  const filter = flows.flatMap(({ local, remote }, index) => [
    ...(index === 0 ? [] : ['or']),
    ...['(', 'src', endpointText(local), 'and', 'dst', endpointText(remote), ')'],
  ]);
  return ['ss', '--kill', '--tcp', '--no-header', '--numeric', ...filter];
}
