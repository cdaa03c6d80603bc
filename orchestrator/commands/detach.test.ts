import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { temporaryDirectory } from '../../agent/test-support.ts';
import { fakeHosts } from '../fake-agent.ts';
import { detach } from './detach.ts';

const OPTIONS = { dryRun: false, yes: true, detach: true };
const { argv } = process;
afterEach(() => {
  process.argv = argv;
  vi.unstubAllEnvs();
});

/** In place of osmosis, in the background. */
function program(text: string): string {
  const directory = temporaryDirectory();
  const file = join(directory, 'program.js');
  writeFileSync(file, text);
  process.argv = ['node', file];
  vi.stubEnv('XDG_STATE_HOME', directory);
  return directory;
}

test('Ctrl-C before the drain goes on by itself ends that one', async () => {
  const directory = program(`
    const fs = require('node:fs');
    process.on('SIGINT', () => (fs.writeFileSync(process.argv[1] + '.ended', ''), process.exit(130)));
    setInterval(() => {}, 1000);
    fs.writeFileSync(process.argv[1] + '.begun', '');
  `);
  const stop = new AbortController();
  const detached = detach('alpha', OPTIONS, fakeHosts().source.control, stop.signal);
  await vi.waitUntil(() => existsSync(join(directory, 'program.js.begun')));
  stop.abort('stopped');
  await expect(detached).rejects.toMatchObject({ code: 'INTERRUPTED' });
  await vi.waitUntil(() => existsSync(join(directory, 'program.js.ended')));
});

test('one that ends at once has not begun', async () => {
  program('process.exit(22)');
  const { signal } = new AbortController();
  await expect(detach('alpha', OPTIONS, fakeHosts().source.control, signal)).rejects.toMatchObject({
    code: 'DRAIN_REFUSED',
    message: expect.stringContaining('status 22'),
  });
});
