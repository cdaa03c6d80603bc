import { describe, expect, it } from 'vitest';
import { drainText, placementText, recordText } from './drain.ts';

const MIB = 1_000_000;
const cell = (name: string) => ({ id: name, name, labels: {}, imageBytes: MIB, refusals: {} });

describe('placementText', () => {
  it('says what would go where, and why not', () => {
    const plan = {
      placed: [{ cell: cell('x'), to: 'beta', notes: ['beside another'] }],
      unplaced: [{ cell: cell('y'), why: { beta: 'cpu: lacks avx512', gamma: 'it is cordoned' } }],
    };
    const hosts = [
      { name: 'beta', roomBytes: 1, cells: [] },
      { name: 'gamma', roomBytes: 1, cells: [], closed: 'it is cordoned' },
    ];
    expect(placementText('alpha', plan, hosts).split('\n')).toEqual([
      'cell  to       image',
      'x     beta     1.00 MB  beside another',
      'y     NOWHERE  1.00 MB  beta: cpu: lacks avx512; gamma: it is cordoned',
      'gamma takes none: it is cordoned',
      '',
    ]);
  });

  it('says that there is nothing', () => {
    expect(placementText('alpha', { placed: [], unplaced: [] }, [])).toBe('alpha has no such cells\n');
  });
});

const ROWS = [
  {
    cell: 'x',
    from: 'alpha',
    state: 'moved',
    to: 'beta',
    flows: { moved: 3, relayed: 1, lost: 1 },
    blackout_ms: 212,
    gap_ms: 214,
  },
  { cell: 'y', from: 'alpha', state: 'left', code: 'DUMP_FAILED', message: 'criu: no' },
] as const;

describe('drainText', () => {
  it('ends with a table and what to do', () => {
    expect(drainText('alpha', 'left', ROWS).split('\n')).toEqual([
      'cell  from   to    flows kept  blackout  gap',
      'x     alpha  beta  4 of 5      212 ms    214 ms',
      'y     alpha  -     -           -         -       left DUMP_FAILED criu: no',
      '1 cell left on alpha: mend what the table says, and run it again',
      '',
    ]);
    expect(drainText('alpha', 'done', [])).toContain('osmosis uncordon alpha');
  });
});

describe('recordText', () => {
  it('says whether a host is cordoned, and how its drain goes', () => {
    expect(recordText('alpha', undefined, ['x'])).toBe('alpha is not cordoned; 1 cell there: x\n');
    const text = recordText(
      'alpha',
      {
        since: 0,
        reason: 'drain',
        drain: {
          by: 'root@here (pid 7)',
          state: 'running',
          started: 0,
          updated: 1_000,
          cells: ROWS.map(({ from: _, ...row }) => ({ ...row })),
        },
      },
      [],
    );
    expect(text.split('\n').slice(0, 2)).toEqual([
      'alpha is cordoned since 1970-01-01T00:00:00.000Z (drain); no cells are there',
      'drain by root@here (pid 7): running, begun 1970-01-01T00:00:00.000Z, last heard of 1970-01-01T00:00:01.000Z',
    ]);
    expect(text).toContain('DUMP_FAILED');
  });
});
