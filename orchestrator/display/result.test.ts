import { describe, expect, it } from 'vitest';
import { type MigrationSuccess, resultText } from './result.ts';

const MOVED: MigrationSuccess = {
  ok: true,
  cell: 'redis-1',
  flows: { moved: 12, relayed: 0, lost: 0 },
  blackout_ms: 412,
  phases: { plan: 12, freeze: 400 },
  bytes: 1.2e9,
};

describe('resultText', () => {
  it('says what has moved', () => {
    expect(resultText(MOVED).split('\n')).toEqual([
      'Moved: redis-1 runs at the destination. It stood still for 412 ms.',
      '12 connections moved, none lost.',
      '1.20 GB of image, 412 ms in all (plan 12 ms, freeze 400 ms).',
      '',
    ]);
  });

  it('hides neither relayed nor lost connections', () => {
    const text = resultText({ ...MOVED, flows: { moved: 1, relayed: 2, lost: 3 } });
    expect(text).toContain(
      '1 connection moved.\n2 connections relayed by the source: keep that host and its agent up.',
    );
    expect(text).toContain('WARNING: 3 connections lost.');
  });
});
