/** `osmosis suspend` and `osmosis resume` against the lab; the files are on this machine. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { LabHost } from '../fixtures/lab/hosts.ts';
import { osmosis } from './cli.ts';

/** A directory for image files, gone when disposed of. */
export function imageDirectory(): { file(name: string): string } & Disposable {
  const directory = mkdtempSync(join(tmpdir(), 'osmosis-images-'));
  return {
    file: (name) => join(directory, name),
    [Symbol.dispose]: () => rmSync(directory, { recursive: true, force: true }),
  };
}

export function suspendArgs(
  target: string | number,
  from: LabHost,
  file: string,
  ...more: string[]
): string[] {
  return ['suspend', String(target), '--from', `ssh://${from}`, '--to', file, '--json', ...more];
}

export function resumeArgs(file: string, on: LabHost, ...more: string[]): string[] {
  return ['resume', file, '--on', `ssh://${on}`, '--json', ...more];
}

type Suspended = {
  cell: string;
  flows: { held: number; lost: number };
  frozen_ms: number;
  unconfirmed: string[];
};
type Resumed = { cell: string; pid: number; flows: { moved: number; relayed: number; lost: number } };

/** A suspension that must succeed. */
export async function suspend(
  target: string | number,
  from: LabHost,
  file: string,
  ...more: string[]
): Promise<Suspended> {
  return (await done(suspendArgs(target, from, file, ...more))) as Suspended;
}

/** A resumption that must succeed. */
export async function resume(file: string, on: LabHost, ...more: string[]): Promise<Resumed> {
  return (await done(resumeArgs(file, on, ...more))) as Resumed;
}

async function done(args: string[]): Promise<unknown> {
  const { object, exitCode, stderr } = await osmosis(args);
  if (object.ok !== true || exitCode !== 0)
    throw new Error(
      `${args.slice(0, 4).join(' ')} exited with ${exitCode}: ${JSON.stringify(object)} ${stderr}`,
    );
  return object;
}
