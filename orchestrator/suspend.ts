/** A suspension: the source's half of a migration, whose destination is a file. */
import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { imageSummarySchema, type Snapshot } from '../agent/control/protocol.ts';
import { messageOf, OsmosisError } from '../agent/error.ts';
import type { Phase } from '../agent/phases.ts';
import { VERSION } from '../agent/version.ts';
import { decodeMessage } from '../agent/wire/frame.ts';
import type { UdpPolicy } from '../agent/wire/h2o-layout.ts';
import { firstError, SLOW_MS_MAX, told, UNDO_MS_MAX, warnOfOutside } from './attempt.ts';
import type { MigrationEvent } from './events.ts';
import { type Host, leftoverText } from './migrate.ts';
import { PhaseClock } from './phase-clock.ts';
import { checkSuspensionPlan, type Legacy, makeSuspensionPlan } from './plan.ts';
import type { ClearMetadata } from './stored/metadata.ts';
import type { NewSecret } from './stored/secret.ts';
import { storeImage } from './stored/store.ts';
import { ImageFileWriter, setState } from './stored/writer.ts';
import { withTries } from './tries.ts';

export const SUSPENSION_PHASES = [
  'plan',
  'prepare',
  'freeze',
  'commit',
  'confirm',
] as const satisfies Phase[];

export type SuspensionResult = {
  readonly ok: true;
  readonly cell: string;
  readonly file: string;
  readonly flows: { readonly held: number; readonly lost: number };
  /** From the freeze to the file being on disk and the process given up. */
  readonly frozen_ms: number;
  readonly phases: Partial<Record<Phase, number>>;
  /** Of the image, as it is stored. */
  readonly bytes: number;
  /** Peers that have not acknowledged yet; the source's agent goes on telling them, and keeps its fence up. */
  readonly unconfirmed: readonly string[];
  readonly datagram_bytes_lost: number;
};

export type SuspensionOptions = {
  readonly target: string;
  readonly name?: string | undefined;
  readonly legacy: Exclude<Legacy, 'relay'>;
  readonly learnMs?: number | undefined;
  /** What becomes of datagrams for it meanwhile, at their senders' hosts. */
  readonly udp: UdpPolicy;
  readonly file: string;
  readonly secret: NewSecret;
  readonly source: Host;
  readonly emit: (event: MigrationEvent) => void;
  /** Honoured up to commit, never after. */
  readonly signal: AbortSignal;
};

export async function suspend(options: SuspensionOptions): Promise<SuspensionResult> {
  return withTries(options, () => suspendOnce(options));
}

async function suspendOnce(options: SuspensionOptions): Promise<SuspensionResult> {
  const { target, name, legacy, learnMs, udp, file, secret, source, emit, signal } = options;
  const migration = randomBytes(16).toString('hex');
  const key = new Uint8Array(randomBytes(32));
  const phases = new PhaseClock(emit);
  const undo = new AbortController();
  const until = { signal: AbortSignal.any([signal, undo.signal]), timeoutMs: SLOW_MS_MAX };
  const from = source.control;
  let writer: ImageFileWriter | undefined;
  let finished = false;
  try {
    phases.enter('plan');
    const {
      plan,
      snapshot: seen,
      datagrams,
    } = await makeSuspensionPlan(target, name, from, file, {
      ...until,
      learnMs,
    });
    checkSuspensionPlan(plan, legacy);
    warnOfOutside(seen, emit);
    const drop = plan.peers.filter(({ agent }) => !agent);
    const published = await publishedOf(source, seen.cell);

    phases.enter('prepare');
    const request = { migration, target, cell: seen.cell, relay: [], datagrams: [...datagrams], key };
    const snapshot = await from.call(
      'source.prepare',
      { ...request, drop: drop.map(({ address }) => address) },
      until,
    );
    writer = await ImageFileWriter.create(file, clearOf(snapshot), secret);
    await from.call('source.stay', { migration, udp }, until);

    phases.enter('freeze');
    const frozenAt = performance.now();
    // Whichever of the two fails first is what went wrong; the other one is told to stop.
    const [{ sessions, datagrams_left: left = { sockets: 0, bytes: 0 } }, end] = await Promise.all([
      from.call('source.freeze', { migration }, until),
      storeImage(migration, source.image, writer, emit, until),
    ]);
    if (left.sockets > 0) emit({ event: 'note', level: 'warn', message: leftoverText(left) });
    const image = imageSummarySchema.parse(decodeMessage({ kind: 'end', body: end }));
    const decision = { addresses: snapshot.agent_addresses, key };
    await writer.finish(end, { migration, source: decision, snapshot, sessions, published, image });
    finished = true;

    phases.enter('commit');
    signal.throwIfAborted();
    await from.call('source.commit', { migration });
    // The point of no return: from here on the file owns the process.
    const isMarked = await marked(file, emit);
    const frozen_ms = performance.now() - frozenAt;

    phases.enter('confirm');
    const { silent } = await from.call('source.hold', { migration });
    if (isMarked) await from.call('source.confirm', { migration });
    phases.finish();
    const lost = drop.reduce((sum, { flows }) => sum + flows, 0);
    return {
      ok: true,
      cell: snapshot.name,
      file,
      flows: { held: snapshot.flows.length, lost },
      frozen_ms,
      phases: phases.times,
      bytes: writer.bytes,
      unconfirmed: silent,
      datagram_bytes_lost: left.bytes,
    };
  } catch (error) {
    undo.abort(new OsmosisError('ABORTED', 'the other half of this step failed'));
    phases.fail();
    throw await recover(error, { ...options, migration, phase: phases.current, writer, finished });
  }
}

async function publishedOf({ control }: Host, id: string) {
  const { cells } = await control.call('status', {});
  return cells.find((cell) => cell.id === id)?.published ?? [];
}

function clearOf({ name, host, processes, flows }: Snapshot): ClearMetadata {
  const { hostname, kernel, arch, criu } = host;
  return {
    cell: name,
    suspended_at: Date.now(),
    version: VERSION,
    host: { hostname, kernel, arch, criu },
    processes: processes.length,
    flows: flows.length,
    peers: new Set(flows.map(({ at }) => at.address)).size,
  };
}

/** Without the mark a resumption asks the source whether this file owns the process. */
async function marked(file: string, emit: SuspensionOptions['emit']): Promise<boolean> {
  try {
    await setState(file, { state: 'stored', attempts: 0, host: '' });
    return true;
  } catch (error) {
    const message = `${messageOf(error)}; the image is whole, and its resumption will ask the source's agent`;
    emit({ event: 'note', level: 'warn', message });
    return false;
  }
}

type Failed = SuspensionOptions & {
  readonly migration: string;
  readonly phase: Phase;
  readonly writer: ImageFileWriter | undefined;
  /** The file is whole. */
  readonly finished: boolean;
};

/** The first error is kept, and says who owns the process now. */
async function recover(error: unknown, failed: Failed): Promise<OsmosisError> {
  const { phase, file, signal, source, migration, finished, writer } = failed;
  const first = firstError(error, phase, signal);
  const toldOf = (owner: 'source' | 'file', state: string, cleanup: readonly string[] = []) =>
    told(first, { phase, owner, state, cleanup });
  if (phase === 'plan') return toldOf('source', '');
  if (phase === 'confirm')
    return toldOf('file', ` The process is suspended in ${file}; the source's agent finishes without us.`);
  const limit = { timeoutMs: UNDO_MS_MAX };
  const aborted = await source.control
    .call('source.abort', { migration }, limit)
    .catch((thrown: unknown) => messageOf(thrown));
  if (typeof aborted === 'object' && aborted.committed) {
    await marked(file, failed.emit);
    return toldOf('file', ` It had been decided already: the process is suspended in ${file}.`);
  }
  if (typeof aborted === 'string' && finished && phase === 'commit')
    return toldOf(
      'source',
      ` Whether the process was given up for ${file} is not known: see osmosis ps there. If it is not there any more, resume the file, which asks the source's agent.`,
      [`source: ${aborted}`],
    );
  await writer?.discard();
  if (finished) await rm(file, { force: true });
  if (typeof aborted === 'string')
    return toldOf('source', ` Undoing is not complete: source: ${aborted}. The agent goes on by itself.`, [
      `source: ${aborted}`,
    ]);
  await source.control.call('source.confirm', { migration }, limit).catch(() => undefined);
  return toldOf('source', ' The process runs at the source with its connections; no file was left.');
}
