/** The lab is up before the first e2e test, and stays up: `npm run lab -- down` ends it. */

import { labUp } from '../fixtures/lab/hosts.ts';
import { ensurePrograms } from '../fixtures/lab/packages.ts';

/** What the tests themselves need on this machine, beyond the lab. */
const TOOLS = {
  sshd: 'openssh-server',
  clang: 'clang',
  'llvm-strip': 'llvm',
  bpftool: 'bpftool',
  tc: 'iproute2',
};

export async function setup(): Promise<void> {
  await ensurePrograms(TOOLS);
  await labUp();
}
