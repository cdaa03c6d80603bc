/** One frame through one pinned program: BPF_PROG_TEST_RUN by way of bpftool-prog(8). */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { type ProgramName, programPath } from '../agent/datapath/bpftool.ts';

// uapi/linux/pkt_cls.h; PASS is TC_ACT_UNSPEC as bpftool prints it.
export const PASS = 0xffffffff;
export const DROP = 2;
export const REDIRECT = 7;
/** Frames come in on, and go out by, the loopback device. */
export const LOOPBACK = 1;

/** `directory` gets the two files that bpftool wants. */
export async function runProgram(
  directory: string,
  pinDir: string,
  program: ProgramName,
  input: Buffer,
): Promise<{ readonly verdict: number; readonly output: Buffer }> {
  const [inFile, outFile] = [join(directory, 'in'), join(directory, 'out')];
  await writeFile(inFile, input);
  const pinned = programPath(pinDir, program);
  const argv = ['-j', 'prog', 'run', 'pinned', pinned, 'data_in', inFile, 'data_out', outFile, 'repeat', '1'];
  const { retval } = JSON.parse((await execa('bpftool', argv)).stdout);
  return { verdict: retval, output: await readFile(outFile) };
}
