/** The one story of migrate() against two scripted agents: its order, and for every step what its failure leads to. */
import { describe, expect, test } from 'vitest';
import type { Method } from '../agent/control/protocol.ts';
import { OsmosisError } from '../agent/error.ts';
import { type Phase, USUAL_PHASES } from '../agent/phases.ts';
import { flowWith, snapshotWith } from '../agent/test-support.ts';
import type { MigrationEvent } from './events.ts';
import { type Answers, fakeHosts } from './fake-agent.ts';
import { type MigrationOptions, migrate } from './migrate.ts';

/** Everything up to the decision, in its order; the three of the freeze run beside each other. */
const BEFORE: readonly (readonly [Method, Phase])[] = [
  ['inspect', 'plan'],
  ['survey', 'plan'],
  ['preflight', 'plan'],
  ['source.prepare', 'prepare'],
  ['destination.prepare', 'prepare'],
  ['source.arm', 'prepare'],
  ['source.freeze', 'freeze'],
  ['image.write', 'freeze'],
  ['image.read', 'freeze'],
  ['destination.restore', 'restore'],
  ['source.commit', 'commit'],
];
const AFTER: readonly (readonly [Method, Phase])[] = [
  ['destination.resume', 'redirect'],
  ['destination.confirm', 'confirm'],
  ['source.confirm', 'confirm'],
];
const UNDO: Method[] = ['source.abort', 'destination.abort', 'source.confirm'];

async function run(answers: Answers = {}, options: Partial<MigrationOptions> = {}) {
  const hosts = fakeHosts(answers);
  const events: MigrationEvent[] = [];
  const outcome = await migrate({
    target: '100',
    legacy: 'refuse',
    source: hosts.source,
    destination: hosts.destination,
    emit: (event) => events.push(event),
    signal: new AbortController().signal,
    ...options,
  }).then(
    (result) => ({ result, error: undefined }),
    (error: unknown) => ({ result: undefined, error: error as OsmosisError }),
  );
  return { ...hosts, ...outcome, events };
}

/** `method` fails with `error`; what comes after it in the list of calls. */
async function runFailing(method: Method, error: Error, answers: Answers = {}) {
  const fail = async (): Promise<never> => {
    throw error;
  };
  const done = await run({ ...answers, [method]: fail });
  return { ...done, after: done.calls.slice(done.calls.lastIndexOf(method) + 1) };
}

const agentsFault = new OsmosisError('DATAPATH', 'alpha: it broke.', { cleanup: ['left over'] });

describe('success', () => {
  test('the steps come in their order, the image goes from one to the other', async () => {
    const { calls, frames, result } = await run();
    expect(calls.slice(0, 6)).toEqual(BEFORE.slice(0, 6).map(([method]) => method));
    expect(calls.slice(6, 9).toSorted()).toEqual(['image.read', 'image.write', 'source.freeze']);
    expect(calls.slice(9)).toEqual([...BEFORE.slice(9), ...AFTER].map(([method]) => method));
    expect(frames.map(({ kind }) => kind)).toEqual(['data', 'end']);
    expect(result).toMatchObject({
      ok: true,
      cell: 'server',
      flows: { moved: 1, relayed: 0, lost: 0 },
      bytes: 3,
      pid: 4242,
      flip_ms: [2],
      unconfirmed: [],
    });
    expect(Object.keys(result?.phases ?? {})).toEqual(USUAL_PHASES);
  });

  test('each phase is told of when it starts and when it is done; the blackout once', async () => {
    const { events, result } = await run();
    const told = events.flatMap((event) =>
      event.event === 'phase' ? [`${event.phase} ${event.state}`] : [],
    );
    expect(told).toEqual(USUAL_PHASES.flatMap((phase) => [`${phase} start`, `${phase} done`]));
    const blackouts = events.flatMap((event) => (event.event === 'blackout' ? [event.ms] : []));
    expect(blackouts).toEqual([result?.blackout_ms]);
  });

  test('one migration id and one key for both agents; the destination prepares for what the source has then', async () => {
    const seen: { migration: string; key: Uint8Array }[] = [];
    const settled = snapshotWith({ flows: [flowWith(51_009)], agent_addresses: ['192.0.2.1'] });
    await run({
      'source.prepare': async ({ migration, key, cell, target }) => {
        expect([cell, target]).toEqual([snapshotWith().cell, '100']);
        seen.push({ migration, key });
        return settled;
      },
      'destination.prepare': async ({ migration, snapshot, source }) => {
        expect([snapshot, source?.addresses]).toEqual([settled, ['192.0.2.1']]);
        seen.push({ migration, key: source?.key ?? new Uint8Array() });
        return { labels: [] };
      },
    });
    expect(seen[0]).toEqual(seen[1]);
    expect(seen[0]?.migration).toMatch(/^[0-9a-f]{32}$/);
  });

  test('legacy peers are dropped where that was asked for, and counted as lost; silent ones too', async () => {
    const dropped: string[][] = [];
    const { result } = await run(
      {
        survey: async () => ({
          peers: [
            { address: '10.77.4.2', agent: true, flows: 2, relayed: 0 },
            { address: '10.77.5.2', agent: false, flows: 3, relayed: 0 },
          ],
        }),
        'source.prepare': async ({ drop }) => {
          dropped.push(drop);
          return snapshotWith({ flows: [flowWith(1), flowWith(2), flowWith(3, '10.77.6.2')] });
        },
        'destination.confirm': async () => ({ pid: 1, silent: ['10.77.6.2'], flip_ms: [] }),
      },
      { legacy: 'drop' },
    );
    expect(dropped).toEqual([['10.77.5.2']]);
    expect(result).toMatchObject({ flows: { moved: 2, lost: 4 }, unconfirmed: ['10.77.6.2'] });
  });

  test('datagram flows that a peer has refused are told of, and not counted', async () => {
    const flows = [51_000, 51_001].map((port) => ({ ...flowWith(port), protocol: 'udp' as const }));
    const { events, result } = await run({
      'source.prepare': async () => snapshotWith({ flows }),
      'source.arm': async () => ({ refused: 1 }),
    });
    expect(result?.flows).toEqual({ moved: 1, relayed: 0, lost: 0 });
    const message = expect.stringContaining('1 datagram flows are not among those');
    expect(events).toContainEqual({ event: 'note', level: 'info', message });
  });

  test('datagrams that stay behind in the sockets are told of, and counted', async () => {
    const datagrams_left = { sockets: 2, bytes: 768 };
    const { events, result } = await run({
      'source.freeze': async () => ({ sessions: [], dump_ms: 1, datagrams_left }),
    });
    expect(result?.datagram_bytes_lost).toBe(768);
    const message = expect.stringContaining('2 of its UDP sockets');
    expect(events).toContainEqual({ event: 'note', level: 'warn', message });
  });

  test('what becomes of descriptors with an outside end is told before anything is touched', async () => {
    const outside = [{ resource: 'pipe:[7]', external: false, what: 'one end of a pipe' }];
    const { events } = await run({ inspect: async () => snapshotWith({ outside }) });
    expect(events).toContainEqual(expect.objectContaining({ event: 'note', level: 'warn' }));
  });
});

describe('failure', () => {
  test.each(BEFORE)('of %s, in %s: as the phase table says', async (method, phase) => {
    const { after, error, events } = await runFailing(method, agentsFault);
    const others: Method[] = ['survey', 'preflight', 'image.read', 'image.write', 'source.freeze'];
    expect(after.filter((call) => !others.includes(call))).toEqual(phase === 'plan' ? [] : UNDO);
    expect(error).toMatchObject({ code: 'DATAPATH', phase, owner: 'source', cause: agentsFault });
    expect(error?.message).toContain('it broke');
    expect(error?.cleanup).toEqual(['left over']);
    if (phase !== 'plan') expect(error?.message).toContain('The process runs at the source');
    expect(events.at(-1)).toMatchObject({ event: 'phase', phase, state: 'failed' });
  });

  test('because the process has ended: it is said to run nowhere', async () => {
    const exited = new OsmosisError('TARGET_EXITED', 'it has ended.', { phase: 'freeze' });
    const { error } = await runFailing('source.freeze', exited);
    expect(error?.message).toContain('It runs nowhere');
  });

  test.each(AFTER)('of %s, in %s: nothing is undone, the destination owns it', async (method, phase) => {
    const { after, error } = await runFailing(method, agentsFault);
    expect(after).toEqual([]);
    expect(error).toMatchObject({ code: 'DATAPATH', phase, owner: 'destination' });
    expect(error?.message).toContain('its agent finishes without us');
  });

  test('a plan that can’t be carried out touches nothing', async () => {
    const checks = [{ name: 'cpu', ok: false, message: 'no' }];
    const { error, calls } = await run({ inspect: async () => snapshotWith({ checks }) });
    expect(error).toMatchObject({ code: 'PREFLIGHT', phase: 'plan', owner: 'source' });
    expect(calls).not.toContain('source.prepare');
  });

  test('where commit was decided after all, nobody undoes and the destination owns it', async () => {
    const { after, error } = await runFailing('source.commit', agentsFault, {
      'source.abort': async () => ({ committed: true }),
    });
    expect(after).toEqual(['source.abort']);
    expect(error).toMatchObject({ phase: 'commit', owner: 'destination' });
  });

  test('a source that is lost while it commits may have committed: the destination is not undone', async () => {
    const lost = new OsmosisError('AGENT_UNREACHABLE', 'lost the agent of alpha');
    const { after, error } = await runFailing('source.commit', lost, {
      'source.abort': async () => {
        throw lost;
      },
    });
    expect(after).toEqual(['source.abort']);
    expect(error).toMatchObject({ code: 'AGENT_UNREACHABLE', phase: 'commit' });
    expect(error?.cleanup).toEqual(['source: lost the agent of alpha']);
  });

  test('a source that is lost earlier has not: the destination is undone, and the source not told so', async () => {
    const lost = new OsmosisError('AGENT_UNREACHABLE', 'lost the agent of alpha');
    const { after, error } = await runFailing('destination.restore', lost, {
      'source.abort': async () => {
        throw lost;
      },
    });
    expect(after).toEqual(['source.abort', 'destination.abort']);
    expect(error).toMatchObject({ owner: 'source', cleanup: ['source: lost the agent of alpha'] });
  });

  test('what fails while undoing joins the first error and does not hide it', async () => {
    const { after, error } = await runFailing('source.arm', agentsFault, {
      'destination.abort': async () => {
        throw new Error('the cell stays');
      },
    });
    expect(after).toEqual(['source.abort', 'destination.abort']);
    expect(error).toMatchObject({ code: 'DATAPATH', cleanup: ['left over', 'destination: the cell stays'] });
    expect(error?.message).toContain('Undoing is not complete: destination: the cell stays');
  });

  test('when one half of the freeze fails the other half is told to stop', async () => {
    const stopped: unknown[] = [];
    const waits = (_params: unknown, { signal }: { signal?: AbortSignal }) =>
      new Promise<never>((_resolve, reject) => {
        signal?.addEventListener('abort', () => {
          stopped.push(signal.reason);
          reject(signal.reason);
        });
      });
    const { error } = await runFailing('source.freeze', agentsFault, {
      'image.read': waits,
      'image.write': waits,
    });
    expect(stopped.length).toBe(2);
    expect(error).toMatchObject({ code: 'DATAPATH', phase: 'freeze' });
  });
});

describe('interrupt', () => {
  /** Interrupted while `method` runs: the client gives it up. */
  async function runInterrupted(method: Method, error?: Error) {
    const abort = new AbortController();
    const interrupting: Answers = {
      [method]: async () => {
        abort.abort();
        throw error ?? new OsmosisError('INTERRUPTED', `interrupted during ${method}`);
      },
    };
    return run(interrupting, { signal: abort.signal });
  }

  test.each(BEFORE.slice(0, -1))('during %s, in %s: undone, if there is anything', async (method, phase) => {
    const { calls, error } = await runInterrupted(method);
    expect(error).toMatchObject({ code: 'INTERRUPTED', phase, owner: 'source', exitStatus: 130 });
    expect(calls.slice(-3)).toEqual(phase === 'plan' ? calls.slice(-3) : UNDO);
    expect(calls).not.toContain('source.commit');
    if (phase === 'plan') expect(calls).not.toContain('source.abort');
  });

  test('between restore and commit it is still undone', async () => {
    const abort = new AbortController();
    const restore = async () => {
      abort.abort();
      return { restore_ms: 1 };
    };
    const { calls, error } = await run({ 'destination.restore': restore }, { signal: abort.signal });
    expect(calls.slice(-4)).toEqual(['destination.restore', ...UNDO]);
    expect(error).toMatchObject({ code: 'INTERRUPTED', phase: 'commit' });
  });

  test('a failure after commit is told as what it is: nothing was undone', async () => {
    const { error } = await runInterrupted('destination.resume', agentsFault);
    expect(error).toMatchObject({ code: 'DATAPATH', phase: 'redirect', owner: 'destination' });
  });

  test.each(['source.commit', 'destination.resume', 'destination.confirm'] as const)(
    'during %s, and later: the migration ends well',
    async (method) => {
      const abort = new AbortController();
      const good = fakeHosts();
      const answer = async () => {
        abort.abort();
        return good.source.control.call(method, { migration: '' });
      };
      const { result, calls } = await run({ [method]: answer }, { signal: abort.signal });
      expect(result?.ok).toBe(true);
      expect(calls).not.toContain('source.abort');
    },
  );
});

describe('connections that come up meanwhile', () => {
  const changed = new OsmosisError('FLOWS_CHANGED', 'alpha: 1 new connection.', { phase: 'freeze' });
  const failingFirst = (times: number): Answers => ({
    'source.freeze': async () => {
      if (times-- > 0) throw changed;
      return { sessions: [], dump_ms: 1 };
    },
  });
  const count = (calls: readonly Method[], method: Method) => calls.filter((call) => call === method).length;

  test('twice at the wrong moment: the third try moves', async () => {
    const { calls, result, events } = await run(failingFirst(2));
    expect(result?.ok).toBe(true);
    expect([count(calls, 'inspect'), count(calls, 'source.abort'), count(calls, 'source.commit')]).toEqual([
      3, 2, 1,
    ]);
    expect(events.filter(({ event }) => event === 'note').length).toBe(2);
  });

  test('six times: it is given up', async () => {
    const { calls, error } = await run(failingFirst(6));
    expect(count(calls, 'source.freeze')).toBe(6);
    expect(error).toMatchObject({ code: 'FLOWS_CHANGED', phase: 'freeze', owner: 'source' });
  }, 20_000);

  test('an interrupt in between ends it', async () => {
    const abort = new AbortController();
    const { calls, error } = await run(
      {
        ...failingFirst(1),
        'source.abort': async () => {
          abort.abort();
          return { committed: false };
        },
      },
      { signal: abort.signal },
    );
    expect(count(calls, 'source.freeze')).toBe(1);
    expect(error?.code).toBe('FLOWS_CHANGED');
  });

  test('other errors are not tried again', async () => {
    expect(count((await runFailing('source.freeze', agentsFault)).calls, 'inspect')).toBe(1);
  });
});
