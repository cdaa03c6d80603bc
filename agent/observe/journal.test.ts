import { expect, test, vi } from 'vitest';
import { OsmosisError } from '../error.ts';
import { Journal, type Tally } from './journal.ts';
import { makeLog } from './log.ts';
import { watched } from './watched.ts';

const ID = 'ab'.repeat(16);
const BEGUN = { cell: 'redis', cell_id: 'c0'.repeat(16), kind: 'move', flows: 3 } as const;

function journalOf() {
  const lines: Record<string, unknown>[] = [];
  const tally = {
    ended: vi.fn<Tally['ended']>(),
    step: vi.fn<Tally['step']>(),
    frozen: vi.fn<Tally['frozen']>(),
    woken: vi.fn<Tally['woken']>(),
    turned: vi.fn<Tally['turned']>(),
    image: vi.fn<Tally['image']>(),
  };
  const log = makeLog({ format: 'json', level: 'info' }, (line) => void lines.push(JSON.parse(line)));
  return { journal: new Journal(log, tally), tally, lines };
}

/** Handlers that do as `steps` say, as far as these go. */
const handlersWith = (steps: Record<string, () => unknown>) =>
  Object.fromEntries(
    Object.entries(steps).map(([method, step]) => [method, async () => step()]),
  ) as unknown as Parameters<typeof watched>[0];
const call = {} as Parameters<Parameters<typeof watched>[0]['source.commit']>[1];

test('a move that goes well is five lines at the source, all of which say whose they are', async () => {
  const { journal, tally, lines } = journalOf();
  const handlers = watched(
    handlersWith({
      'source.prepare': () => journal.begin('source', ID, BEGUN),
      'source.arm': () => ({}),
      'source.freeze': () => ({ dump_ms: 12, sessions: [{ toPeer: new Uint8Array(32) }] }),
      'source.commit': () => ({}),
      'source.confirm': () => journal.ended('source', ID, 'committed'),
    }),
    journal,
  );
  for (const method of [
    'source.prepare',
    'source.arm',
    'source.freeze',
    'source.commit',
    'source.confirm',
  ] as const)
    await handlers[method]({ migration: ID } as never, call);
  expect(lines.map(({ level, phase, msg }) => [level, phase, msg])).toEqual([
    ['info', 'prepare', 'a cell is to leave'],
    ['info', 'prepare', 'prepared: its peers know where it may go'],
    ['info', 'freeze', 'frozen, and its image is written'],
    ['info', 'commit', 'decided: no way back from here'],
    ['info', undefined, 'has moved away: nothing of it is left here'],
  ]);
  for (const line of lines)
    expect(line).toMatchObject({ role: 'source', cell: 'redis', cell_id: BEGUN.cell_id, migration: ID });
  const times = ['prepare_ms', 'arm_ms', 'freeze_ms', 'commit_ms', 'confirm_ms', 'frozen_ms', 'total_ms'];
  for (const time of times) expect(lines.at(-1)?.[time], time).toEqual(expect.any(Number));
  expect(tally.ended.mock.calls).toEqual([
    [{ role: 'source', kind: 'move', outcome: 'committed', code: undefined }],
  ]);
  expect(tally.frozen.mock.calls).toEqual([['committed', expect.any(Number)]]);
  expect(tally.step.mock.calls.map(([, step]) => step)).toEqual([
    'prepare',
    'arm',
    'freeze',
    'commit',
    'confirm',
  ]);
  expect(journal.active('source')).toBe(0);
});

test('a move that fails says why, first, and that it was undone', async () => {
  const { journal, tally, lines } = journalOf();
  const failure = new OsmosisError('RESTORE_FAILED', 'CRIU says no', { phase: 'restore' });
  const handlers = watched(
    handlersWith({
      'destination.restore': () => {
        throw failure;
      },
      'image.write': () => {
        throw new OsmosisError('IMAGE_CORRUPT', 'ended early');
      },
    }),
    journal,
  );
  journal.begin('destination', ID, BEGUN);
  for (const method of ['destination.restore', 'image.write'] as const)
    await expect(handlers[method]({ migration: ID } as never, call)).rejects.toThrow();
  journal.ended('destination', ID, 'undone');
  expect(lines[1]).toMatchObject({
    level: 'warn',
    phase: 'restore',
    code: 'RESTORE_FAILED',
    error: 'CRIU says no',
  });
  expect(lines.at(-1)).toMatchObject({
    level: 'warn',
    msg: 'the move was undone: nothing of it is left here',
    code: 'RESTORE_FAILED',
    error: 'CRIU says no',
  });
  expect(tally.ended).toHaveBeenCalledWith({
    role: 'destination',
    kind: 'move',
    outcome: 'undone',
    code: 'RESTORE_FAILED',
  });
});

test('what never begins is counted as refused, with its code', async () => {
  const { journal, tally, lines } = journalOf();
  const handlers = watched(
    handlersWith({
      'destination.prepare': () => {
        throw new OsmosisError('HOST_CORDONED', 'cordoned');
      },
    }),
    journal,
  );
  await expect(handlers['destination.prepare']({ migration: ID } as never, call)).rejects.toThrow('cordoned');
  expect(tally.ended).toHaveBeenCalledWith({
    role: 'destination',
    kind: 'resume',
    outcome: 'refused',
    code: 'HOST_CORDONED',
  });
  expect(lines).toMatchObject([{ level: 'warn', code: 'HOST_CORDONED' }]);
});

test('a suspension is told from a move, and one that a former agent had begun from a new one', () => {
  const { journal, tally, lines } = journalOf();
  journal.begin('source', ID, BEGUN);
  journal.suspends(ID);
  journal.ended('source', ID, 'committed');
  journal.begin('source', ID, { ...BEGUN, recovered: true });
  journal.ended('source', ID, 'undone');
  expect(tally.ended.mock.calls.map(([{ kind, outcome }]) => [kind, outcome])).toEqual([
    ['suspend', 'committed'],
    ['move', 'undone'],
  ]);
  expect(lines.map(({ msg }) => msg)).toEqual([
    'a cell is to leave',
    'is suspended: its file has the process',
    'goes on with what the last agent had begun',
    'the move was undone: the process goes on here',
  ]);
});

test('entries that nobody ends do not pile up, and strangers are nobody', () => {
  const { journal } = journalOf();
  for (let index = 0; index < 400; index++) journal.begin('source', String(index), BEGUN);
  expect(journal.active('source')).toBe(256);
  journal.ended('source', 'nobody', 'committed');
  journal.done('destination', '399', 'restore');
  expect(journal.active('destination')).toBe(0);
});
