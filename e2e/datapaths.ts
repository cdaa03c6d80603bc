/** Datapaths of network namespaces: loaded once for all cases of a file, for that takes half a second, and emptied after each. */
import { expect } from 'vitest';
import { Batch } from '../agent/datapath/batch.ts';
import { updateLine } from '../agent/datapath/bpftool.ts';
import { Datapath } from '../agent/datapath/datapath.ts';
import { encodeId } from '../agent/datapath/layout.ts';
import { COUNTERS } from '../agent/datapath/model.ts';
import { objectFile } from '../agent/datapath/object.ts';
import { isPinned } from '../agent/datapath/pins.ts';
import { runnerIn } from '../agent/datapath/run.ts';
import { readMaps } from '../agent/datapath/snapshot.ts';
import type { Namespace } from './namespaces.ts';

const COUNTER_BYTES = 8;
/** How often programs have tried to draw a label: element of `spent`. */
const DRAWS = 0;

/** The one of a namespace. */
export async function openDatapath(pinDir: string, { path }: Namespace): Promise<Datapath> {
  return await Datapath.open({ pinDir, objectFile: await objectFile(), netns: path });
}

/** Takes out all entries. The programs stay where they are, and count, and draw labels, from the beginning again. */
export async function clear(datapath: Datapath, pinDir: string): Promise<void> {
  if (!(await isPinned(pinDir))) return;
  await empty(datapath, pinDir);
  const batch = new Batch();
  await batch.run([
    ...COUNTERS.map((_, id) => updateLine(pinDir, 'counters', encodeId(id), new Uint8Array(COUNTER_BYTES))),
    updateLine(pinDir, 'spent', encodeId(DRAWS), encodeId(0)),
  ]);
  await batch.close();
}

/** Takes all out of the kernel, expects that nothing is left there, and closes the datapath. */
export async function remove(datapath: Datapath, pinDir: string): Promise<void> {
  await clear(datapath, pinDir);
  expect(await datapath.removeIfEmpty()).toBe(true);
  await datapath.close();
}

async function empty(datapath: Datapath, pinDir: string): Promise<void> {
  const { flows, sides, insides, listeners, rules } = await readMaps(runnerIn(undefined), pinDir);
  await datapath.removeRules(rules.map(({ rule }) => rule));
  if (datapath.isRuled) await datapath.removeCreated(() => true);
  await datapath.removeFlows(flows);
  await datapath.unfenceListeners(listeners);
  for (const { scope } of insides) await datapath.removeInside(scope);
  for (const { id } of sides) await datapath.removeSide(id);
}
