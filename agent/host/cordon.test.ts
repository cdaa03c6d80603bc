import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { temporaryDirectory } from '../test-support.ts';
import { Cordon } from './cordon.ts';

const RECORD = { since: 1_000, reason: 'new memory' };

describe('Cordon', () => {
  it('lets all in until it is set, and again once it is cleared', () => {
    const cordon = new Cordon(join(temporaryDirectory(), 'state/cordon.json'));
    expect(cordon.checks('alpha')).toEqual([]);
    cordon.refuse('alpha');
    cordon.set(RECORD);
    expect(() => cordon.refuse('alpha')).toThrow(expect.objectContaining({ code: 'HOST_CORDONED' }));
    expect(cordon.checks('alpha')).toEqual([
      {
        name: 'cordon',
        ok: false,
        message:
          'alpha is cordoned since 1970-01-01T00:00:01.000Z (new memory) and takes no cells: osmosis uncordon it, or choose another host',
      },
    ]);
    cordon.clear();
    cordon.refuse('alpha');
  });

  it('outlives the agent', () => {
    const path = join(temporaryDirectory(), 'cordon.json');
    new Cordon(path).set(RECORD);
    expect(new Cordon(path).record).toEqual(RECORD);
    new Cordon(path).clear();
    expect(new Cordon(path).record).toBeUndefined();
  });

  it('is one where its file can’t be read', () => {
    const path = join(temporaryDirectory(), 'cordon.json');
    writeFileSync(path, '{');
    expect(() => new Cordon(path).refuse('alpha')).toThrow(/can't be read/);
  });
});
