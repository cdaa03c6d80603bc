/** More outgoing connections with one peer than one MOVE lists: suspended, and resumed elsewhere. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { startMovableLines, startTreeServer } from '../fixtures/load/lines.ts';
import { imageDirectory, resume, suspend } from './suspending.ts';
import { leavesNothing } from './traces.ts';

const CONNECTIONS = 1_000;
const EVERY_MS = 250;
const BETWEEN_MS = 1_000;

leavesNothing();
let images: ReturnType<typeof imageDirectory>;
beforeAll(() => {
  images = imageDirectory();
});
afterAll(() => images[Symbol.dispose]());

it(`${CONNECTIONS} of them wait for a process that is suspended, and go on elsewhere`, async () => {
  await using _server = await startTreeServer('peer', 7650);
  const client = await startMovableLines('alpha', ['peer:7650'], {
    connections: CONNECTIONS,
    everyMs: EVERY_MS,
  });
  const file = images.file('many');
  const { flows } = await suspend(client.pid, 'alpha', file);
  expect(flows).toEqual({ held: CONNECTIONS, lost: 0 });
  await sleep(BETWEEN_MS);
  const { pid, ...resumed } = await resume(file, 'beta');
  expect(resumed.flows).toEqual({ moved: CONNECTIONS, relayed: 0, lost: 0 });
  await sleep(BETWEEN_MS);
  expect(await client.stop('beta', pid)).toMatchObject({ ok: true, faults: [] });
});
