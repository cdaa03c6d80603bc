/** A resumption: the destination's half of a migration, whose source is a file. */
import { randomBytes } from 'node:crypto';
import type { Publication, PublishSpec } from '../agent/cell/publication.ts';
import type { Params, PeerSession, Result, Snapshot } from '../agent/control/protocol.ts';
import { messageOf, OsmosisError, type Owner } from '../agent/error.ts';
import type { Phase } from '../agent/phases.ts';
import type { AgentClient } from './agent-client.ts';
import { firstError, SLOW_MS_MAX, told, UNDO_MS_MAX } from './attempt.ts';
import type { MigrationEvent } from './events.ts';
import type { Host } from './migrate.ts';
import { PhaseClock } from './phase-clock.ts';
import { refuseFailed } from './plan.ts';
import { claimAbove, MOVE_ABOVE_HOLD } from './stored/claims.ts';
import type { ImageState } from './stored/format.ts';
import type { SealedMetadata } from './stored/metadata.ts';
import type { ImageFileReader, UnlockedImage } from './stored/reader.ts';
import { setState } from './stored/writer.ts';

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

/** Tries of a copy of the file that one of this file is above. */
const COPY_ATTEMPTS_MAX = 64;

export type Mark = (state: ImageState, attempts?: number) => Promise<void>;
type Claimed = {
  readonly snapshot: Snapshot;
  readonly sessions: PeerSession[];
  readonly lost: number;
  /** Other ends that have moved meanwhile. */
  readonly ends: Ends;
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

/** A stored cell, and where its peers are asked from. */
export type Held = Pick<ResumptionOptions, 'reader' | 'image' | 'host' | 'signal'>;

/** Writes down what has become of the file. An attempt is known by its number until the next one is. */
export function marker({ path, state }: ImageFileReader, host: string) {
  let { attempts } = state;
  return (next: ImageState, begun: number = attempts) => {
    attempts = begun;
    return setState(path, { state: next, attempts, host });
  };
}

type Answer = Result<'resume.claim'>['peers'][number]['answer'];
type Ends = NonNullable<Params<'destination.prepare'>['ends']>;
type Answers = {
  readonly answers: ReadonlyMap<string, Answer>;
  /** Of those whose ends have moved meanwhile. */
  readonly ends: Ends;
};
type Claims = Answers & { readonly sessions: PeerSession[] };

/**
 * Which peers wait for this image. A copy of the file may have been tried, and not resumed, since: its HOLDs were above ours.
 * One that was resumed refuses both. `counts`: the peers whose answer matters.
 */
export async function heldBy(
  { reader, image, host, signal }: Held,
  mark: Mark,
  counts: (peer: string) => boolean,
): Promise<Claims> {
  const claimAs = async (attempt: number): Promise<Claims> => {
    // It counts before any peer hears of it.
    await mark(reader.state.state === 'discarded' ? 'discarded' : 'stored', attempt + 1);
    const sessions = raised(image.metadata.sessions, claimAbove(attempt));
    return { ...(await askPeers(host, image.metadata.snapshot.cell, sessions, signal)), sessions };
  };
  const { attempts } = reader.state;
  const first = await claimAs(attempts);
  const isRefused = [...first.answers].some(([peer, answer]) => answer === 'other' && counts(peer));
  return isRefused ? claimAs(attempts + COPY_ATTEMPTS_MAX) : first;
}

async function askPeers(
  { control }: Host,
  cell: string,
  sessions: PeerSession[],
  signal: AbortSignal,
): Promise<Answers> {
  const { peers } = await control.call('resume.claim', { cell, sessions }, { signal });
  return {
    answers: new Map(peers.map(({ peer, answer }) => [peer, answer])),
    ends: peers.flatMap(({ peer, ends }) => (ends === undefined ? [] : [{ peer, ends }])),
  };
}

async function claimedFirst(options: ResumptionOptions, mark: Mark, signal: AbortSignal): Promise<Claimed> {
  const { snapshot } = options.image.metadata;
  const peers = peersOf(snapshot);
  const claims = await heldBy({ ...options, signal }, mark, (peer) => peers.has(peer));
  return settled(options, claims, snapshot);
}

/** @throws OsmosisError IMAGE_USED */
function checkState({ reader: { path, state }, image, again }: ResumptionOptions): void {
  const when = `${new Date(state.at).toISOString()} on ${state.host}`;
  if (state.state === 'resumed')
    throw new OsmosisError('IMAGE_USED', `${path} was resumed ${when}; an image can be resumed once`, {
      owner: 'destination',
    });
  if (state.state === 'discarded')
    throw new OsmosisError('IMAGE_USED', `${path} was given up ${when}; its peers wait for it no more`, {
      owner: 'file',
    });
  const asked = peersOf(image.metadata.snapshot).size > 0;
  if (state.state === 'resuming' && !asked && !again)
    throw new OsmosisError(
      'IMAGE_USED',
      `${path} was about to be resumed ${when}, and how that ended was not written down. See osmosis ps there; if the process is not there, --again`,
    );
}

/** @throws OsmosisError PREFLIGHT */
async function checkHost(
  { image, host, publish = [] }: Pick<ResumptionOptions, 'image' | 'host' | 'publish'>,
  signal: AbortSignal,
): Promise<void> {
  refuseFailed((await hostChecks({ image, host, publish }, signal)).checks, 'resumed');
}

export async function hostChecks(
  { image, host, publish = [] }: Pick<ResumptionOptions, 'image' | 'host' | 'publish'>,
  signal: AbortSignal,
) {
  const { snapshot } = image.metadata;
  const params = { snapshot, ...(publish.length === 0 ? {} : { publish: [...publish] }) };
  return host.control.call('preflight', params, { signal });
}

/**
 * Its maker has not said so: the source's agent knows whether the process was given up for this file. Where it was not, the
 * file says so from then on: the agent has told what it knew.
 * @throws OsmosisError IMAGE_USED
 */
export async function checkDecided({ reader, image, host }: Held, signal: AbortSignal): Promise<void> {
  if (reader.state.state === 'void') throw neverOwned(reader.path);
  if (reader.state.state !== 'undecided') return;
  const { migration, source } = image.metadata;
  const { verdict } = await host.control.call('resume.verdict', { migration, source }, { signal });
  if (verdict === 'commit') return;
  if (verdict === 'abort') {
    await marker(reader, host.control.host)('void').catch(() => undefined);
    throw neverOwned(reader.path);
  }
  const { hostname } = reader.clear.host;
  throw new OsmosisError(
    'IMAGE_USED',
    `the cell in ${reader.path} may not own the process: its suspension was cut off, and the agent of ${hostname}, which knows, does not answer`,
    { owner: 'file' },
  );
}

function neverOwned(path: string): OsmosisError {
  return new OsmosisError(
    'IMAGE_USED',
    `the cell in ${path} was never suspended for good: the process went on at its host, or ended with that. Remove the file`,
    { owner: 'source' },
  );
}

/**
 * What of the image goes on: without those peers that do not wait for it, where the operator wants that.
 * @throws OsmosisError IMAGE_STALE, PEER_SILENT
 */
async function claimed(
  options: ResumptionOptions,
  sessions: PeerSession[],
  signal: AbortSignal,
  snapshot: Snapshot,
): Promise<Claimed> {
  const asked = await askPeers(options.host, snapshot.cell, sessions, signal);
  return settled(options, { ...asked, sessions }, snapshot);
}

function settled(
  { dropGone, reader }: ResumptionOptions,
  { answers, ends, sessions }: Claims,
  snapshot: Snapshot,
): Claimed {
  const gone = [...peersOf(snapshot)].filter((peer) => answers.get(peer) !== 'held');
  if (gone.length > 0 && !dropGone) throw refused(reader.path, gone, answers);
  const isThere = ({ at }: Snapshot['flows'][number]) => !gone.includes(at.address);
  const flows = snapshot.flows.filter(isThere);
  const left = snapshot.flows.filter((flow) => !isThere(flow));
  const dropped = left.map(({ protocol, local, remote }) => ({ protocol, local, remote }));
  return {
    snapshot: { ...snapshot, flows, dropped: [...snapshot.dropped, ...dropped] },
    // A peer without a flow that has forgotten it needs no MOVE.
    sessions: sessions.filter(({ peer }) => answers.get(peer) !== 'other' && !gone.includes(peer)),
    lost: left.length,
    ends,
  };
}

function refused(path: string, gone: readonly string[], answers: ReadonlyMap<string, Answer>): OsmosisError {
  const others = gone.filter((peer) => answers.get(peer) === 'other');
  if (others.length > 0)
    return new OsmosisError(
      'IMAGE_STALE',
      `${others.join(', ')} does not wait for the cell in ${path}: it runs, or has run, elsewhere since; or that host has been restarted, or does not trust any more who has suspended it (osmosis trust list there). ` +
        'If you know that it runs nowhere: --drop-gone goes on without those connections',
      { phase: 'prepare' },
    );
  return new OsmosisError(
    'PEER_SILENT',
    `the agent of ${gone.join(', ')} does not answer. Check it and UDP port 18018; --drop-gone goes on without those connections`,
    { phase: 'prepare' },
  );
}

function peersOf({ flows }: Snapshot): Set<string> {
  return new Set(flows.map(({ at }) => at.address));
}

function raised(sessions: SealedMetadata['sessions'], by: number): PeerSession[] {
  return sessions.map((session) => ({ ...session, epoch: session.epoch + by }));
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
