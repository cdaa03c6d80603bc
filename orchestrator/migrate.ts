/** The migration: one function, a line a phase, the point of no return marked. */
import { randomBytes } from 'node:crypto';
import type { PlacedFlow } from '../agent/address.ts';
import type { Publication, PublishSpec } from '../agent/cell/publication.ts';
import { asOsmosisError, messageOf, OsmosisError, type Owner } from '../agent/error.ts';
import { PHASE_TABLE, type Phase } from '../agent/phases.ts';
import type { AgentClient, CallOptions } from './agent-client.ts';
import { firstError, SLOW_MS_MAX, told, UNDO_MS_MAX, warnOfOutside } from './attempt.ts';
import type { MigrationEvent } from './events.ts';
import { relayImage } from './image-relay.ts';
import { PhaseClock } from './phase-clock.ts';
import { checkPlan, type Legacy, makePlan, type Plan } from './plan.ts';
import { FileSync, type SyncChannels, type Synced, type SyncRequest } from './sync/sync.ts';
import { withTries } from './tries.ts';

/** Both agents undo within this, or the failure says that they go on undoing alone. */

export type MigrationResult = {
  readonly ok: true;
  readonly cell: string;
  readonly flows: { readonly moved: number; readonly relayed: number; readonly lost: number };
  readonly blackout_ms: number;
  /** From the freeze until the process ran and every peer had acknowledged where: no flow was silent for longer by it. */
  readonly gap_ms: number;
  readonly phases: Partial<Record<Phase, number>>;
  readonly bytes: number;
  /** Root process at the destination, as a pid of that host. */
  readonly pid: number;
  /** For each peer host, ms from MOVE sent to its ACK. */
  readonly flip_ms: readonly number[];
  /** Peers that have not acknowledged yet; the destination's agent goes on telling them. */
  readonly unconfirmed: readonly string[];
  /** Of datagrams that the process had not taken from its UDP sockets; as the kernel counts a receive queue. */
  readonly datagram_bytes_lost: number;
  /** Endpoints of the destination at which anybody reaches it. */
  readonly published: readonly Publication[];
  /** Files, where they were to be copied. */
  readonly synced?: Synced;
};

/** Control and image channel to one agent, each a connection of its own. */
export type Host = { readonly control: AgentClient; readonly image: AgentClient };

export type MigrationOptions = {
  readonly target: string;
  readonly name?: string;
  readonly legacy: Legacy;
  /** How long the flows of unconnected UDP sockets are learnt; the agent's choice (a second) where it is not given. */
  readonly learnMs?: number | undefined;
  /** New flows follow the process, for so many seconds at a time. */
  readonly forwardLeaseS?: number | undefined;
  /** Where the process is to be reachable at the destination. */
  readonly publish?: readonly PublishSpec[] | undefined;
  /** What the destination lacks of files is copied. */
  readonly sync?: { readonly request: SyncRequest; readonly channels: SyncChannels } | undefined;
  readonly source: Host;
  readonly destination: Host;
  readonly emit: (event: MigrationEvent) => void;
  /** Honoured up to commit, never after. */
  readonly signal: AbortSignal;
};

export async function migrate(options: MigrationOptions): Promise<MigrationResult> {
  const { sync, source, destination, emit } = options;
  if (sync === undefined) return await withTries(options, () => migrateOnce(options));
  const agents = { source: source.control, destination: destination.control, channels: sync.channels };
  const files = new FileSync(sync.request, agents, emit);
  try {
    return await withTries(options, () => migrateOnce(options, files));
  } catch (thrown) {
    throw await withoutFiles(asOsmosisError(thrown), files);
  }
}

/** What has been copied is taken back, unless the process needs it. */
async function withoutFiles(error: OsmosisError, files: FileSync): Promise<OsmosisError> {
  const left = error.owner === 'destination' ? [] : await files.undo();
  if (left.length === 0) return error;
  const { code, message, phase, owner, cleanup } = error;
  const more = ` ${left.join('; ')}. The agent there goes on by itself.`;
  return new OsmosisError(code, message + more, {
    ...(phase === undefined ? {} : { phase }),
    ...(owner === undefined ? {} : { owner }),
    cause: error,
    cleanup: [...cleanup, ...left],
  });
}

async function migrateOnce(
  {
    target,
    name,
    legacy,
    learnMs,
    forwardLeaseS,
    publish = [],
    source,
    destination,
    emit,
    signal,
  }: MigrationOptions,
  files?: FileSync,
): Promise<MigrationResult> {
  const migration = randomBytes(16).toString('hex');
  const key = new Uint8Array(randomBytes(32));
  const phases = new PhaseClock(emit);
  const undo = new AbortController();
  const until = { signal: AbortSignal.any([signal, undo.signal]), timeoutMs: SLOW_MS_MAX };
  const [from, to] = [source.control, destination.control];
  try {
    phases.enter('plan');
    const {
      plan,
      snapshot: seen,
      datagrams,
      hostname = to.host,
    } = await makePlan(target, name, from, to, { ...until, learnMs, forwardLeaseS, publish, files });
    checkPlan(plan, legacy);
    warnOfOutside(seen, emit);
    const without = plan.peers.filter(({ agent }) => !agent);
    const [drop, relay] = legacy === 'relay' ? [[], without] : [without, []];
    for (const { address, flows } of relay) {
      emit({
        event: 'note',
        level: 'warn',
        message: `${flows} connections of ${address}, which has no agent, will go by way of ${from.host}: keep that host up`,
      });
    }
    const addresses = (peers: Plan['peers']) => peers.map(({ address }) => address);

    if (files !== undefined) {
      phases.enter('sync');
      await files.copy(until);
    }

    phases.enter('prepare');
    const snapshot = await from.call(
      'source.prepare',
      {
        migration,
        target,
        cell: seen.cell,
        drop: addresses(drop),
        relay: addresses(relay),
        datagrams: [...datagrams],
        ...(forwardLeaseS === undefined ? {} : { forward_lease_s: forwardLeaseS }),
        key,
      },
      until,
    );
    const {
      labels,
      homes = [],
      published = [],
    } = await to.call(
      'destination.prepare',
      {
        migration,
        snapshot,
        source: { addresses: snapshot.agent_addresses, key },
        ...(publish.length === 0 ? {} : { publish: [...publish] }),
        ...(files === undefined ? {} : { sync: files.id }),
      },
      until,
    );
    const { refused = 0 } = await from.call('source.arm', { migration, labels, homes }, until);
    if (refused > 0) emit({ event: 'note', level: 'info', message: refusedText(refused) });

    phases.enter('freeze');
    const frozenAt = performance.now();
    const image = relayImage(migration, source.image, destination.image, emit, until);
    // Whichever of the two fails first is what went wrong; the other one is told to stop.
    const [{ sessions, held, datagrams_left: left = { sockets: 0, bytes: 0 } }, bytes] = await Promise.all([
      frozen(from.call('source.freeze', { migration }, until), files, until),
      image,
    ]);

    if (left.sockets > 0) emit({ event: 'note', level: 'warn', message: leftoverText(left) });

    phases.enter('restore');
    await to.call(
      'destination.restore',
      { migration, sessions, ...(held === undefined ? {} : { held }) },
      until,
    );

    phases.enter('commit');
    signal.throwIfAborted();
    await from.call('source.commit', { migration, to: { name: to.host, hostname } });
    // The point of no return: from here on nothing is undone, and the agents finish even without us.

    phases.enter('redirect');
    const redirectedAt = performance.now();
    await to.call('destination.resume', { migration });
    const blackout_ms = performance.now() - frozenAt;
    emit({ event: 'blackout', ms: blackout_ms });

    phases.enter('confirm');
    const { pid, silent, flip_ms } = await to.call('destination.confirm', { migration });
    await from.call('source.confirm', { migration });
    phases.finish();
    const flows = flowCounts(drop, snapshot.flows, silent, refused);
    return {
      ok: true,
      cell: snapshot.name,
      flows,
      blackout_ms,
      gap_ms: Math.max(blackout_ms, redirectedAt - frozenAt + Math.max(0, ...flip_ms)),
      phases: phases.times,
      bytes,
      pid,
      flip_ms,
      unconfirmed: silent,
      datagram_bytes_lost: left.bytes,
      published,
      ...(files === undefined ? {} : { synced: files.synced }),
    };
  } catch (error) {
    undo.abort(new OsmosisError('ABORTED', 'the other half of this step failed'));
    phases.fail();
    throw await recover(error, phases.current, migration, source, destination, signal);
  }
}

/** Once it stands still, what it has written since its files were copied follows, beside its image. */
async function frozen<T>(freeze: Promise<T>, files: FileSync | undefined, until: CallOptions): Promise<T> {
  const result = await freeze;
  await files?.delta(until);
  return result;
}

export function leftoverText({ sockets, bytes }: { sockets: number; bytes: number }): string {
  return `the process had not taken all datagrams from ${sockets} of its UDP sockets when it was frozen: ${bytes} bytes of receive queue are lost`;
}

function refusedText(refused: number): string {
  return `${refused} datagram flows are not among those that their peers have with it (their sockets have gone, as a rule): they are not counted as moved`;
}

function flowCounts(
  dropped: Plan['peers'],
  snapshot: readonly PlacedFlow[],
  silent: readonly string[],
  refused: number,
): MigrationResult['flows'] {
  const unheard = new Set(silent);
  const confirmed = snapshot.filter(({ at }) => !unheard.has(at.address));
  const relayed = confirmed.filter((flow) => flow.relayed).length;
  const lost = dropped.reduce((sum, { flows }) => sum + flows, 0) + snapshot.length - confirmed.length;
  return { moved: Math.max(confirmed.length - relayed - refused, 0), relayed, lost };
}

/** The phase table says what a failure leads to; the first error is kept, and says who owns the process now. */
async function recover(
  error: unknown,
  phase: Phase,
  migration: string,
  source: Host,
  destination: Host,
  signal: AbortSignal,
): Promise<OsmosisError> {
  const first = firstError(error, phase, signal);
  switch (PHASE_TABLE[phase].recovery) {
    case 'refuse':
      return told(first, { phase, owner: 'source', state: '' });
    case 'finish':
      return told(first, {
        phase,
        owner: 'destination',
        state:
          ' The process runs, or will run, at the destination: its agent finishes without us; see osmosis ps there.',
      });
    case 'undo': {
      const { owner, cleanup } = await undoBoth(migration, phase, source, destination);
      const state =
        owner === 'source'
          ? ` ${leftAtSource(first)}; nothing was left at the destination.`
          : ' It had been decided already: the destination finishes the move.';
      const incomplete = ` Undoing is not complete: ${cleanup.join('; ')}. The agents go on by themselves.`;
      return told(first, { phase, owner, state: cleanup.length === 0 ? state : incomplete, cleanup });
    }
  }
}

function leftAtSource({ code }: OsmosisError): string {
  return code === 'TARGET_EXITED' ? 'It runs nowhere' : 'The process runs at the source with its connections';
}

async function undoBoth(
  migration: string,
  phase: Phase,
  source: Host,
  destination: Host,
): Promise<{ owner: Owner; cleanup: string[] }> {
  const cleanup: string[] = [];
  const attempt = async <T>(who: string, step: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await step();
    } catch (thrown) {
      cleanup.push(`${who}: ${messageOf(thrown)}`);
      return undefined;
    }
  };
  const limit = { timeoutMs: UNDO_MS_MAX };
  const aborted = await attempt('source', () => source.control.call('source.abort', { migration }, limit));
  if (aborted?.committed === true) return { owner: 'destination', cleanup };
  // Lost while it decided: it may have committed. The destination's agent asks it, and nobody else may undo there.
  if (aborted === undefined && phase === 'commit') return { owner: PHASE_TABLE[phase].owner, cleanup };
  const undone = await attempt('destination', () =>
    destination.control.call('destination.abort', { migration }, limit),
  );
  if (undone !== undefined && aborted !== undefined)
    await attempt('source', () => source.control.call('source.confirm', { migration }, limit));
  return { owner: 'source', cleanup };
}
