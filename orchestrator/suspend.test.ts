/** suspend(), resume() and discard() against scripted agents and real files: their order, and for every step what its failure leaves. */
import { existsSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Method, PeerSession } from '../agent/control/protocol.ts';
import { asOsmosisError, OsmosisError } from '../agent/error.ts';
import { snapshotWith, temporaryDirectory } from '../agent/test-support.ts';
import { discard } from './discard.ts';
import { type Answers, fakeHosts } from './fake-agent.ts';
import { type ResumptionOptions, resume } from './resume.ts';
import { ImageFileReader } from './stored/reader.ts';
import { newSecret, secretFor } from './stored/secret.ts';
import { suspend } from './suspend.ts';

const SESSION: PeerSession = {
  peer: '10.77.4.2',
  epoch: 5,
  transaction: new Uint8Array(8),
  cell: new Uint8Array(16),
  tag: new Uint8Array(8),
  toPeer: new Uint8Array(32),
  toCell: new Uint8Array(32),
};
const FREEZES: Answers = { 'source.freeze': async () => ({ sessions: [SESSION], dump_ms: 1 }) };
const quiet = { emit: () => undefined, signal: new AbortController().signal };
const fault = new OsmosisError('DATAPATH', 'alpha: it broke.');
const fails = async (): Promise<never> => {
  throw fault;
};

async function runSuspend(answers: Answers = {}) {
  const file = join(temporaryDirectory(), 'image');
  const { source, calls } = fakeHosts({ ...FREEZES, ...answers });
  const secret = await newSecret(file, {});
  const outcome = await suspend({
    target: '100',
    legacy: 'refuse',
    udp: 'hold',
    file,
    secret,
    source,
    ...quiet,
  }).then(
    (result) => ({ result, error: undefined }),
    (error: unknown) => ({ result: undefined, error: asOsmosisError(error) }),
  );
  return { file, calls, ...outcome };
}

async function stateOf(file: string) {
  const reader = await ImageFileReader.open(file);
  await reader.close();
  return reader.state;
}

describe('suspend', () => {
  test('the steps come in their order, and the file says that it owns the process', async () => {
    const { file, calls, result } = await runSuspend();
    const steps: Method[] = ['inspect', 'survey', 'status', 'source.prepare', 'source.stay'];
    expect(calls.slice(0, 5)).toEqual(steps);
    expect(calls.slice(5, 7).toSorted()).toEqual(['image.read', 'source.freeze']);
    expect(calls.slice(7)).toEqual(['source.commit', 'source.hold', 'source.confirm']);
    expect(result).toMatchObject({ ok: true, cell: 'server', file, flows: { held: 1, lost: 0 }, bytes: 3 });
    expect(Object.keys(result?.phases ?? {})).toEqual(['plan', 'prepare', 'freeze', 'commit', 'confirm']);
    expect(await stateOf(file)).toMatchObject({ state: 'stored', attempts: 0 });
  });

  test.each<Method>(['source.prepare', 'source.stay', 'source.freeze', 'image.read', 'source.commit'])(
    '%s fails: undone, and no file is left',
    async (method) => {
      const { file, calls, error } = await runSuspend({ [method]: fails });
      expect(error).toMatchObject({ code: 'DATAPATH', owner: 'source' });
      expect(calls).toContain('source.abort');
      expect([file, `${file}.partial`].filter(existsSync)).toEqual([]);
    },
  );

  test('the decision stood already: the file owns the process', async () => {
    const committed = async () => ({ committed: true });
    const { file, error } = await runSuspend({ 'source.commit': fails, 'source.abort': committed });
    expect(error).toMatchObject({ owner: 'file' });
    expect(await stateOf(file)).toMatchObject({ state: 'stored' });
  });

  test('lost while it was decided: the file is kept, and its resumption has to ask', async () => {
    const { file, error } = await runSuspend({ 'source.commit': fails, 'source.abort': fails });
    expect(error?.message).toContain('not known');
    expect(await stateOf(file)).toMatchObject({ state: 'undecided' });
  });

  test('a peer that does not acknowledge is named', async () => {
    const hold = async () => ({ silent: ['10.77.4.2'] });
    const { result } = await runSuspend({ 'source.hold': hold });
    expect(result?.unconfirmed).toEqual(['10.77.4.2']);
  });
});

async function runResume(answers: Answers = {}, options: Partial<ResumptionOptions> = {}, file?: string) {
  const path = file ?? (await runSuspend()).file;
  const { destination, calls, frames } = fakeHosts(answers);
  const reader = await ImageFileReader.open(path);
  const image = await reader.unlock(await secretFor(path, reader.key, {}));
  const outcome = await resume({
    reader,
    image,
    host: destination,
    dropGone: false,
    again: false,
    ...quiet,
    ...options,
  }).then(
    (result) => ({ result, error: undefined }),
    (error: unknown) => ({ result: undefined, error: asOsmosisError(error) }),
  );
  await reader.close();
  return { file: path, calls, frames, ...outcome };
}

/** Answers of the peers' agents, one claim after the other; the last one for all that follow. */
function claims(...answers: ('held' | 'other' | 'silent')[]) {
  const asked: PeerSession[] = [];
  const answer: Answers['resume.claim'] = async ({ sessions }) => {
    asked.push(...sessions);
    const next = answers.length > 1 ? answers.shift() : answers[0];
    return { peers: sessions.map(({ peer }) => ({ peer, answer: next ?? 'held' })) };
  };
  return { asked, answers: { 'resume.claim': answer } as Answers };
}

describe('resume', () => {
  test('the steps come in their order; the image goes as it came; the file is spent', async () => {
    const sealed: PeerSession[] = [];
    const armed: PeerSession[] = [];
    const { asked, answers } = claims('held');
    const { file, calls, frames, result } = await runResume({
      ...answers,
      'destination.arm': async ({ sessions }) => {
        armed.push(...sessions);
        return {};
      },
      'destination.restore': async ({ sessions }) => {
        sealed.push(...sessions);
        return { restore_ms: 1 };
      },
    });
    const steps: Method[] = [
      'preflight',
      'resume.claim',
      'destination.prepare',
      'image.write',
      'destination.arm',
      'destination.restore',
      'resume.claim',
      'destination.commit',
      'destination.resume',
      'destination.confirm',
    ];
    expect(calls).toEqual(steps);
    expect(frames.map(({ kind, body }) => [kind, body.length > 0])).toEqual([
      ['data', true],
      ['end', true],
    ]);
    // Above the suspension's; asked for twice in the same words; the ARM has the next one, and the MOVE the one after that.
    const [first, second] = asked.map(({ epoch }) => epoch);
    expect(first).toBeGreaterThan(5);
    expect(second).toBe(first);
    expect(sealed.map(({ epoch }) => epoch)).toEqual([(first ?? 0) + 2]);
    expect(armed).toEqual(sealed);
    expect(result).toMatchObject({ ok: true, cell: 'server', flows: { moved: 1, relayed: 0, lost: 0 } });
    expect(await stateOf(file)).toMatchObject({ state: 'resumed', attempts: 1, host: 'beta' });
    expect((await runResume({}, {}, file)).error).toMatchObject({ code: 'IMAGE_USED', owner: 'destination' });
  });

  test.each<Method>([
    'destination.prepare',
    'destination.arm',
    'image.write',
    'destination.restore',
    'destination.commit',
  ])('%s fails: undone, and the file can be resumed', async (method) => {
    const { file, calls, error } = await runResume({ [method]: fails });
    expect(error).toMatchObject({ code: 'DATAPATH', owner: 'file' });
    expect(calls.at(-1)).toBe('destination.abort');
    expect(await stateOf(file)).toMatchObject({ state: 'stored', attempts: 1 });
    expect((await runResume({}, {}, file)).result).toMatchObject({ ok: true });
  });

  test('after the commit nothing is undone', async () => {
    const { file, calls, error } = await runResume({ 'destination.resume': fails });
    expect(error).toMatchObject({ owner: 'destination' });
    expect(calls).not.toContain('destination.abort');
    expect(await stateOf(file)).toMatchObject({ state: 'resumed' });
  });

  test('lost while it was decided: the file says so, and only its peers, or the operator, let it be tried again', async () => {
    const lost = { 'destination.commit': fails, 'destination.abort': fails };
    const { file, error } = await runResume(lost);
    expect(error?.message).toContain('not known');
    expect(await stateOf(file)).toMatchObject({ state: 'resuming' });
    expect((await runResume({}, {}, file)).result).toMatchObject({ ok: true });

    const alone = {
      'source.prepare': async () => snapshotWith({ flows: [] }),
      'source.freeze': FREEZES['source.freeze'],
    };
    const { file: lonely } = await runSuspend(alone as Answers);
    await runResume(lost, {}, lonely);
    expect((await runResume({}, {}, lonely)).error).toMatchObject({ code: 'IMAGE_USED', owner: 'file' });
    expect((await runResume({}, { again: true }, lonely)).result).toMatchObject({ ok: true });
  });

  test('a peer that waits for another image: refused, after one more try above those of copies', async () => {
    const { asked, answers } = claims('other');
    const { file, calls, error } = await runResume(answers);
    expect(error).toMatchObject({ code: 'IMAGE_STALE', owner: 'file' });
    expect(calls).not.toContain('destination.prepare');
    expect((asked[1]?.epoch ?? 0) - (asked[0]?.epoch ?? 0)).toBeGreaterThan(60 * 256);
    expect(await stateOf(file)).toMatchObject({ state: 'stored', attempts: 65 });
    expect((await runResume(claims('other', 'held').answers)).result).toMatchObject({ ok: true });
  });

  test('another copy was quicker: refused just before the commit', async () => {
    const { calls, error } = await runResume(claims('held', 'other').answers);
    expect(error).toMatchObject({ code: 'IMAGE_STALE', owner: 'file' });
    expect(calls).not.toContain('destination.commit');
  });

  test('a peer that is gone: refused, or its connections are dropped', async () => {
    expect((await runResume(claims('silent').answers)).error).toMatchObject({ code: 'PEER_SILENT' });
    const prepared: unknown[] = [];
    const { result } = await runResume(
      {
        ...claims('silent').answers,
        'destination.prepare': async ({ snapshot, source }) => {
          prepared.push(snapshot.flows, snapshot.dropped.length, source);
          return { labels: [] };
        },
      },
      { dropGone: true },
    );
    expect(prepared).toEqual([[], 1, undefined]);
    expect(result?.flows).toEqual({ moved: 0, relayed: 0, lost: 1 });
  });

  test.each([
    ['abort', 'source'],
    ['silent', 'file'],
  ] as const)('a file whose suspension was cut off, and the source says %s', async (verdict, owner) => {
    const { file } = await runSuspend({ 'source.commit': fails, 'source.abort': fails });
    const { error, calls } = await runResume({ 'resume.verdict': async () => ({ verdict }) }, {}, file);
    expect(error).toMatchObject({ code: 'IMAGE_USED', owner });
    expect(calls).toEqual(['preflight', 'resume.verdict']);
    const again = await runResume({}, {}, file);
    if (verdict === 'silent') expect(again.result).toMatchObject({ ok: true });
    else expect([again.error, again.calls]).toMatchObject([{ code: 'IMAGE_USED', owner }, ['preflight']]);
  });

  test('a host that can not take it: refused, and the file is not touched', async () => {
    const { file } = await runSuspend();
    const bytes = readFileSync(file);
    const checks = [{ name: 'cpu', ok: false, message: 'lacks avx' }];
    const { error } = await runResume(
      { preflight: async () => ({ host: snapshotWith().host, checks }) },
      {},
      file,
    );
    expect(error).toMatchObject({ code: 'PREFLIGHT', owner: 'file', phase: 'plan' });
    expect(readFileSync(file).equals(bytes)).toBe(true);
  });

  test('a file that can not be written to is refused before any peer is asked', async () => {
    const { file } = await runSuspend();
    const preflight = async () => {
      renameSync(file, `${file}-moved`);
      return { host: snapshotWith().host, checks: [] };
    };
    const { error, calls } = await runResume({ preflight }, {}, file);
    expect(error).toMatchObject({ code: 'IMAGE_FILE', owner: 'file' });
    expect(calls).not.toContain('resume.claim');
  });
});

async function runDiscard(answers: Answers, file: string) {
  const { destination, calls } = fakeHosts(answers);
  const reader = await ImageFileReader.open(file);
  const image = await reader.unlock(await secretFor(file, reader.key, {}));
  const outcome = await discard({ reader, image, host: destination, signal: quiet.signal }).then(
    (result) => ({ result, error: undefined }),
    (error: unknown) => ({ result: undefined, error: asOsmosisError(error) }),
  );
  await reader.close();
  return { calls, ...outcome };
}

describe('discard', () => {
  test('peers that wait are told, above their HOLD; after that the file can not be resumed', async () => {
    const { file } = await runSuspend();
    const { asked, answers } = claims('held');
    const said: PeerSession[] = [];
    const { calls, result } = await runDiscard(
      {
        ...answers,
        'resume.discard': async ({ sessions }) => {
          said.push(...sessions);
          expect(await stateOf(file)).toMatchObject({ state: 'discarded' });
          return { silent: [] };
        },
      },
      file,
    );
    expect(calls).toEqual(['resume.claim', 'resume.discard']);
    expect(said.map(({ epoch }) => epoch)).toEqual([(asked[0]?.epoch ?? 0) + 2]);
    expect(result).toMatchObject({ ok: true, told: ['10.77.4.2'], gone: [], unconfirmed: [] });
    expect((await runResume({}, {}, file)).error).toMatchObject({ code: 'IMAGE_USED', owner: 'file' });
    expect((await runDiscard(claims('other').answers, file)).result).toMatchObject({ gone: ['10.77.4.2'] });
    expect(await stateOf(file)).toMatchObject({ state: 'discarded' });
  });

  test('who does not answer is told all the same, and named', async () => {
    const silent = async () => ({ silent: ['10.77.4.2'] });
    const { file } = await runSuspend();
    const { result } = await runDiscard({ ...claims('silent').answers, 'resume.discard': silent }, file);
    expect(result).toMatchObject({ told: [], unconfirmed: ['10.77.4.2'] });
  });

  test('what runs, or may run, is not given up', async () => {
    const { file } = await runSuspend();
    await runResume({}, {}, file);
    expect((await runDiscard({}, file)).error).toMatchObject({ code: 'IMAGE_USED', owner: 'destination' });
    const { file: undecided } = await runSuspend({ 'source.commit': fails, 'source.abort': fails });
    const abort = async () => ({ verdict: 'abort' as const });
    const { error, calls } = await runDiscard({ 'resume.verdict': abort }, undecided);
    expect(error).toMatchObject({ code: 'IMAGE_USED', owner: 'source' });
    expect(calls).toEqual(['resume.verdict']);
    expect((await runDiscard({}, undecided)).error).toMatchObject({ code: 'IMAGE_USED', owner: 'source' });
  });

  test('cut off after it was marked: it says what to do', async () => {
    const { file } = await runSuspend();
    const { error } = await runDiscard({ 'resume.discard': fails }, file);
    expect(error).toMatchObject({ code: 'DATAPATH', owner: 'file' });
    expect(error?.message).toContain('discard once more');
    expect((await runDiscard({}, file)).result).toMatchObject({ told: ['10.77.4.2'] });
  });
});
