/**
 * What is compiled of our modules is kept from one command to the next: to strip and compile them takes a short command longer
 * than all else that it does. Imported for its effect, before anything that is loaded on demand.
 */
import { lstatSync, mkdirSync } from 'node:fs';
import { enableCompileCache } from 'node:module';
import { homedir } from 'node:os';
import { join } from 'node:path';

const OTHERS_WRITE = 0o022;
const uid = process.getuid?.();
const directory =
  uid === 0 ? '/var/cache/osmosis' : join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'osmosis');

try {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const status = lstatSync(directory);
  // Code is run from there.
  if (status.isDirectory() && status.uid === uid && (status.mode & OTHERS_WRITE) === 0)
    enableCompileCache(directory);
} catch {
  // A command that can't keep anything works all the same.
}
