/** Which peers wait for a stored cell: asked of them before anything is restored, and once more before it is decided. */
import type { Params, PeerSession, Result, Snapshot } from '../agent/control/protocol.ts';
import { OsmosisError } from '../agent/error.ts';
import type { Host } from './migrate.ts';
import { type Held, type Mark, peersOf } from './resumable.ts';
import { claimAbove } from './stored/claims.ts';
import type { SealedMetadata } from './stored/metadata.ts';

/** Tries of a copy of the file that one of this file is above. */
const COPY_ATTEMPTS_MAX = 64;

/** What the operator wants where peers do not wait. */
type Claiming = Held & { readonly dropGone: boolean };
type Claimed = {
  readonly snapshot: Snapshot;
  readonly sessions: PeerSession[];
  readonly lost: number;
  /** Other ends that have moved meanwhile. */
  readonly ends: Ends;
};

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

export async function claimedFirst(options: Claiming, mark: Mark, signal: AbortSignal): Promise<Claimed> {
  const { snapshot } = options.image.metadata;
  const peers = peersOf(snapshot);
  const claims = await heldBy({ ...options, signal }, mark, (peer) => peers.has(peer));
  return settled(options, claims, snapshot);
}

/**
 * What of the image goes on: without those peers that do not wait for it, where the operator wants that.
 * @throws OsmosisError IMAGE_STALE, PEER_SILENT
 */
export async function claimed(
  options: Claiming,
  sessions: PeerSession[],
  signal: AbortSignal,
  snapshot: Snapshot,
): Promise<Claimed> {
  const asked = await askPeers(options.host, snapshot.cell, sessions, signal);
  return settled(options, { ...asked, sessions }, snapshot);
}

function settled(
  { dropGone, reader }: Claiming,
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

export function raised(sessions: SealedMetadata['sessions'], by: number): PeerSession[] {
  return sessions.map((session) => ({ ...session, epoch: session.epoch + by }));
}
