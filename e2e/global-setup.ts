/** The lab is up before the first e2e test, and stays up: `npm run lab -- down` ends it. */
import { existsSync } from 'node:fs';
import { labUp } from '../fixtures/lab/hosts.ts';
import { ensurePrograms, installPackages } from '../fixtures/lab/packages.ts';

/** What the tests themselves need on this machine, beyond the lab: program and Debian package. */
const TOOLS = {
  sshd: 'openssh-server',
  clang: 'clang',
  'llvm-strip': 'llvm',
  bpftool: 'bpftool',
  tc: 'iproute2',
  spin: 'spin',
  gcc: 'gcc',
  python3: 'python3',
};
/** To compile the eBPF program: a header, and the packages that it and those it includes are in. */
const HEADER = '/usr/include/bpf/bpf_helpers.h';
const HEADER_PACKAGES = ['libbpf-dev', 'linux-libc-dev'];

export async function setup(): Promise<void> {
  await ensurePrograms(TOOLS);
  if (!existsSync(HEADER)) await installPackages(HEADER_PACKAGES);
  await labUp();
}
