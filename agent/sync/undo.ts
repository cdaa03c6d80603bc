/** Takes back what was done to the files of a host, or lets go of what was put aside. */
import { lstatSync, renameSync, rmdirSync, rmSync, unlinkSync } from 'node:fs';
import { setImmediate as breathe } from 'node:timers/promises';
import { messageOf } from '../error.ts';
import { beneathIfThere } from './beneath.ts';
import type { Step } from './journal.ts';

/** Other work of the agent has its turn after so many. */
const AT_ONCE = 512;

/** Last first. What is not ours any more is left alone. @returns what could not be taken back, and why. */
export async function takeBack(steps: readonly Step[]): Promise<string[]> {
  return await each(steps.toReversed(), takeBackOne);
}

/** After the move: what was there before is not needed. */
export async function letGo(steps: readonly Step[]): Promise<string[]> {
  return await each(steps, (step) => {
    if (step.did !== 'put aside') return;
    beneathIfThere('/', step.aside, (place) => rmSync(place, { recursive: true, force: true }));
  });
}

async function each(steps: readonly Step[], act: (step: Step) => void): Promise<string[]> {
  const failures: string[] = [];
  for (const [at, step] of steps.entries()) {
    if (at % AT_ONCE === AT_ONCE - 1) await breathe();
    try {
      act(step);
    } catch (error) {
      failures.push(`${'path' in step ? step.path : ''}: ${messageOf(error)}`);
    }
  }
  return failures;
}

function takeBackOne(step: Step): void {
  switch (step.did) {
    case 'mkdir':
      return void beneathIfThere('/', step.path, (place) => rmdirSync(place));
    case 'stage':
      return void beneathIfThere('/', step.staged, (place) => unlinkSync(place));
    case 'place':
      return void beneathIfThere('/', step.path, (place) => {
        if (inodeOf(place) === step.inode) unlinkSync(place);
      });
    case 'put aside':
      return void beneathIfThere('/', step.aside, (place) => {
        // Somebody else may have put something there meanwhile.
        if (beneathIfThere('/', step.path, inodeOf) !== undefined)
          throw new Error(`${step.aside} has what was there`);
        renameSync(place, siblingOf(place, step.path));
      });
    case 'begin':
    case 'bind':
    case 'release':
      return;
  }
}

/** Both are in one directory. */
function siblingOf(place: string, path: string): string {
  return place.slice(0, place.lastIndexOf('/') + 1) + path.slice(path.lastIndexOf('/') + 1);
}

/** Device and inode: one file, for as long as it is there. */
export function inodeOf(place: string): string {
  const { dev, ino } = lstatSync(place, { bigint: true });
  return `${dev}:${ino}`;
}
