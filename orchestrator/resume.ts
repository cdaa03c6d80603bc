/** A resumption: the destination's half of a migration, whose source is a file. */
import { randomBytes } from 'node:crypto';
import type { Publication, PublishSpec } from '../agent/cell/publication.ts';
import { messageOf, OsmosisError, type Owner } from '../agent/error.ts';
import type { Phase } from '../agent/phases.ts';
import type { AgentClient } from './agent-client.ts';
import { firstError, SLOW_MS_MAX, told, UNDO_MS_MAX } from './attempt.ts';
import { claimed, claimedFirst, raised } from './claim.ts';
import type { MigrationEvent } from './events.ts';
import type { Host } from './migrate.ts';
import { PhaseClock } from './phase-clock.ts';
import { checkDecided, checkHost, checkState, type Mark, marker } from './resumable.ts';
import { MOVE_ABOVE_HOLD } from './stored/claims.ts';
import type { ImageFileReader, UnlockedImage } from './stored/reader.ts';

export const RESUMPTION_PHASES = [
  'plan',
  'prepare',
  'restore',
  'commit',
  'redirect',
  'confirm',
] as const satisfies Phase[];

export type ResumptionResult = {
  readonly ok: true;
  readonly cell: string;
  readonly file: string;
  readonly flows: { readonly moved: number; readonly relayed: number; readonly lost: number };
  /** Since it was frozen, by the clocks of the two commands. */
  readonly away_ms: number;
  readonly phases: Partial<Record<Phase, number>>;
  readonly bytes: number;
  /** Root process, as a pid of its host. */
  readonly pid: number;
  readonly flip_ms: readonly number[];
  readonly unconfirmed: readonly string[];
  readonly published: readonly Publication[];
};

export type ResumptionOptions = {
  readonly reader: ImageFileReader;
  readonly image: UnlockedImage;
  readonly host: Host;
  /** Go on without the connections of peers that do not wait for it. */
  readonly dropGone: boolean;
  /** Although an earlier resumption may have been decided. */
  readonly again: boolean;
  readonly publish?: readonly PublishSpec[] | undefined;
  readonly emit: (event: MigrationEvent) => void;
  /** Honoured up to commit, never after. */
  readonly signal: AbortSignal;
};

export async function resume(options: ResumptionOptions): Promise<ResumptionResult> {
  const { reader, image, host, publish = [], emit, signal } = options;
  const migration = randomBytes(16).toString('hex');
  const phases = new PhaseClock(emit);
  const undo = new AbortController();
  const until = { signal: AbortSignal.any([signal, undo.signal]), timeoutMs: SLOW_MS_MAX };
  const to = host.control;
  const mark = marker(reader, to.host);
  let decided: 'no' | 'perhaps' | 'yes' = 'no';
  try {
    phases.enter('plan');
    checkState(options);
    await checkHost(options, until.signal);
    await checkDecided(options, until.signal);

    phases.enter('prepare');
    const { snapshot, sessions, lost, ends } = await claimedFirst(options, mark, until.signal);
    const { published = [] } = await to.call(
      'destination.prepare',
      {
        migration,
        snapshot,
        ...(publish.length === 0 ? {} : { publish: [...publish] }),
        ...(ends.length === 0 ? {} : { ends }),
      },
      until,
    );

    phases.enter('restore');
    // Beside the image, so that it costs the connections no silence.
    const moves = raised(sessions, MOVE_ABOVE_HOLD);
    const [bytes] = await Promise.all([
      sendImage(migration, image, host.image, emit, until),
      to.call('destination.arm', { migration, sessions: moves }, until),
    ]);
    await to.call('destination.restore', { migration, sessions: moves }, until);
    // Another copy may have been quicker.
    await claimed({ ...options, dropGone: false }, sessions, until.signal, snapshot);

    phases.enter('commit');
    signal.throwIfAborted();
    decided = 'perhaps';
    await mark('resuming');
    await to.call('destination.commit', { migration });
    decided = 'yes';
    // The point of no return: from here on the process runs there, and its agent finishes even without us.

    phases.enter('redirect');
    await to.call('destination.resume', { migration });
    await mark('resumed').catch((error: unknown) =>
      emit({
        event: 'note',
        level: 'warn',
        message: `${messageOf(error)}; it has been resumed all the same`,
      }),
    );

    phases.enter('confirm');
    const { pid, silent, flip_ms } = await to.call('destination.confirm', { migration });
    phases.finish();
    const unheard = snapshot.flows.filter(({ at }) => silent.includes(at.address)).length;
    const relayed = snapshot.flows.filter((flow) => flow.relayed && !silent.includes(flow.at.address)).length;
    return {
      ok: true,
      cell: snapshot.name,
      file: reader.path,
      flows: { moved: snapshot.flows.length - unheard - relayed, relayed, lost: lost + unheard },
      away_ms: Math.max(Date.now() - reader.clear.suspended_at, 0),
      phases: phases.times,
      bytes,
      pid,
      flip_ms,
      unconfirmed: silent,
      published,
    };
  } catch (error) {
    undo.abort(new OsmosisError('ABORTED', 'the other half of this step failed'));
    phases.fail();
    throw await recover(error, { ...options, migration, phase: phases.current, decided, mark });
  }
}

/** @returns bytes of the image. */
async function sendImage(
  migration: string,
  image: UnlockedImage,
  destination: AgentClient,
  emit: ResumptionOptions['emit'],
  options: { readonly signal: AbortSignal; readonly timeoutMs: number },
): Promise<number> {
  const started = performance.now();
  const send = async () => {
    let bytes = 0;
    for await (const { plaintext, last } of image.pieces()) {
      options.signal.throwIfAborted();
      await destination.sendImage(last ? 'end' : 'data', plaintext);
      bytes += plaintext.length;
    }
    const ms = Math.max(performance.now() - started, 1);
    emit({ event: 'progress', bytes, bytes_per_s: Math.round((bytes * 1_000) / ms) });
  };
  const [written] = await Promise.all([destination.call('image.write', { migration }, options), send()]);
  return written.bytes;
}

type Failed = ResumptionOptions & {
  readonly migration: string;
  readonly phase: Phase;
  readonly decided: 'no' | 'perhaps' | 'yes';
  readonly mark: Mark;
};

async function recover(
  error: unknown,
  { migration, phase, decided, mark, host, signal, reader }: Failed,
): Promise<OsmosisError> {
  const first = firstError(error, phase, signal);
  const message = `${first.message.replace(/\.$/, '')}.`;
  const toldOf = (owner: Owner, state: string, cleanup: readonly string[] = []) =>
    told(first, { phase, owner, state, cleanup, message });
  if (phase === 'plan')
    return toldOf(
      first.owner ?? 'file',
      first.message.includes('Nothing was') ? '' : ' Nothing was touched.',
    );
  if (decided === 'yes') {
    await mark('resumed').catch(() => undefined);
    return toldOf(
      'destination',
      ' The process runs, or will run: its agent finishes without us; see osmosis ps there.',
    );
  }
  const limit = { timeoutMs: UNDO_MS_MAX };
  try {
    await host.control.call('destination.abort', { migration }, limit);
  } catch (thrown) {
    const why = messageOf(thrown);
    if (decided === 'perhaps')
      return toldOf(
        'file',
        ` Whether it was resumed is not known: see osmosis ps there before ${reader.path} is tried again.`,
        [why],
      );
    return toldOf(
      'file',
      ` ${reader.path} is as it was. Undoing is not complete: ${why}; the agent goes on by itself.`,
      [why],
    );
  }
  if (decided === 'perhaps') await mark('stored').catch(() => undefined);
  if (first.owner === 'destination') return toldOf('destination', ' Nothing was changed.');
  return toldOf(
    'file',
    ` ${reader.path} is as it was${first.code === 'IMAGE_STALE' ? '' : ', and can be resumed'}.`,
  );
}
