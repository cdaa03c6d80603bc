/** Files of the lab's hosts, and a server that keeps some (file-server.py), for the tests of `--sync`. */
import { execOn, type LabHost, spawnOn } from '../fixtures/lab/hosts.ts';
import { untilListening } from '../fixtures/load/control.ts';
import { untilSaid } from '../fixtures/load/lines.ts';
import { endEverywhere, MOVE_HOSTS } from '../fixtures/load/processes.ts';

const PROGRAM = '/opt/osmosis/fixtures/load/file-server.py';

/** All that can be seen of what is below `directory`, and what is in it; times to the microsecond, but of directories. */
const LOOK = `
cd "$0" 2>/dev/null || exit 0
find . -type d -printf '%p %y %m %U %G\\n' -o -printf '%p %y %m %U %G %s %T@ %l\\n' | sed 's/\\(\\.[0-9]\\{6\\}\\)[0-9]*/\\1/'
find . -type f -exec sha256sum {} +
`;

export async function filesOn(host: LabHost, directory: string): Promise<string[]> {
  const { stdout } = await execOn(host, ['sh', '-c', LOOK, directory]);
  return stdout.split('\n').filter(Boolean).sort();
}

export async function shell(host: LabHost, script: string, ...args: string[]): Promise<string> {
  return (await execOn(host, ['sh', '-c', script, ...args])).stdout;
}

export type FileServer = {
  readonly pid: number;
  /** What it says of its files, at the host where it is. */
  verdict(host: LabHost): Promise<{ lines: number; faults: string[] }>;
} & AsyncDisposable;

/**
 * Listens when it resolves, on alpha, by an interpreter of its own in `directory`. Disposing of it ends it wherever it is, and
 * removes `directory` from all hosts. `data`: where its files are.
 */
export async function startFileServer(
  port: number,
  directory: string,
  { data = `${directory}/data`, openOnly = false }: { data?: string; openOnly?: boolean } = {},
): Promise<FileServer> {
  await shell('alpha', 'mkdir -p "$0/bin" "$1" && cp /usr/bin/python3 "$0/bin/python"', directory, data);
  const argv = [`${directory}/bin/python`, PROGRAM, String(port), data, ...(openOnly ? ['--open-only'] : [])];
  const pattern = `^${argv.join(' ')}$`;
  const { pid } = await spawnOn('alpha', argv);
  await untilListening('alpha', port);
  return {
    pid,
    async verdict(host) {
      await shell(host, 'pkill -USR1 -f -- "$0"', pattern);
      return JSON.parse(await untilSaid(host, `${data}/verdict`, 'faults'));
    },
    [Symbol.asyncDispose]: async () => {
      await endEverywhere(pattern);
      await Promise.all(MOVE_HOSTS.map((host) => execOn(host, ['rm', '-rf', directory, data])));
    },
  };
}
