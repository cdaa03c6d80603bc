/** What the datapath's tests need of this machine. */
import { stat } from 'node:fs/promises';
import { OBJECT_FILE } from '../agent/datapath/object.ts';

const DIRECTORIES = [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin'];
const TOOLS = { bpftool: 'bpftool', tc: 'iproute2', nsenter: 'util-linux', stdbuf: 'coreutils' } as const;

/** Why the datapath can't be tested here, if it can't: for the name of a skipped suite. */
export async function datapathUntestable(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return 'SKIPPED: needs root';
  for (const [tool, debianPackage] of Object.entries(TOOLS)) {
    if (!(await isInstalled(tool))) return `SKIPPED: ${tool} is missing (package ${debianPackage})`;
  }
  if ((await isInstalled('clang')) || (await exists(OBJECT_FILE))) return undefined;
  return 'SKIPPED: neither clang nor a compiled osmosis.bpf.o is here';
}

async function isInstalled(tool: string): Promise<boolean> {
  return (await Promise.all(DIRECTORIES.map((directory) => exists(`${directory}/${tool}`)))).some(Boolean);
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
