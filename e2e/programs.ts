/** One packet through one pinned program: BPF_PROG_TEST_RUN by way of bpftool-prog(8). */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { type ProgramName, programPath } from '../agent/datapath/bpftool.ts';

// uapi/linux/pkt_cls.h; PASS is TC_ACT_UNSPEC as bpftool prints it.
export const PASS = 0xffffffff;
export const DROP = 2;
export const REDIRECT = 7;
/** `bpftool prog run` lets packets come in on, and go out by, the loopback device. */
export const LOOPBACK = 1;

/** What the program answers, and the packet as it leaves it. */
export async function runProgram(
  pinDir: string,
  program: ProgramName,
  input: Buffer,
): Promise<{ verdict: number; output: Buffer }> {
  const directory = await mkdtemp(join(tmpdir(), 'osmosis-run-'));
  try {
    const [inFile, outFile] = [join(directory, 'in'), join(directory, 'out')];
    await writeFile(inFile, input);
    const data = ['data_in', inFile, 'data_out', outFile, 'repeat', '1'];
    const argv = ['-j', 'prog', 'run', 'pinned', programPath(pinDir, program), ...data];
    const { retval } = JSON.parse((await execa('bpftool', argv)).stdout);
    return { verdict: retval, output: await readFile(outFile) };
  } finally {
    await rm(directory, { recursive: true });
  }
}
