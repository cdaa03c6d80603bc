/** Packets through pinned programs, one by one: BPF_PROG_TEST_RUN by way of bpftool-prog(8). */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { expect } from 'vitest';
import { type ProgramName, programPath } from '../agent/datapath/bpftool.ts';
import type { Datapath } from '../agent/datapath/datapath.ts';
import type { COUNTERS } from '../agent/datapath/model.ts';

// uapi/linux/pkt_cls.h; PASS is TC_ACT_UNSPEC as bpftool prints it.
export const PASS = 0xffffffff;
export const DROP = 2;
export const REDIRECT = 7;
/** `bpftool prog run` lets packets come in on, and go out by, the loopback device. */
export const LOOPBACK = 1;

type CounterName = (typeof COUNTERS)[number];

/** What a file's cases expect of the programs of its datapath; `loaded` is asked in each. */
export function expectations(loaded: () => { readonly datapath: Datapath; readonly pinDir: string }) {
  const counted = async (counter: CounterName) => (await loaded().datapath.counters())?.[counter];

  /** It answers so, and leaves the packet so, byte for byte. */
  async function expectRun(
    program: ProgramName,
    input: Buffer,
    verdict: number,
    output?: Buffer,
  ): Promise<void> {
    const ran = await runProgram(loaded().pinDir, program, input);
    expect(ran.verdict).toBe(verdict);
    if (output !== undefined) expect(ran.output.toString('hex')).toBe(output.toString('hex'));
  }

  /** It drops the packet, and counts that. */
  async function expectDrop(program: ProgramName, input: Buffer, counter: CounterName): Promise<void> {
    const before = (await counted(counter)) ?? Number.NaN;
    await expectRun(program, input, DROP);
    expect({ [counter]: await counted(counter) }).toEqual({ [counter]: before + 1 });
  }

  /** It answers so, or drops the packet and counts that. */
  async function expectVerdict(
    program: ProgramName,
    input: Buffer,
    verdict: number | CounterName,
  ): Promise<void> {
    await (typeof verdict === 'number'
      ? expectRun(program, input, verdict)
      : expectDrop(program, input, verdict));
  }

  return { expectRun, expectDrop, expectVerdict };
}

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
