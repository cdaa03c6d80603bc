/**
 * Before a suspended cell is restored, and once more before it is committed: whether its peers still wait for this very
 * image. They are asked with a HOLD, which changes nothing at a peer that holds the cell already, and which a peer that
 * has seen it move on since has no session for.
 */
import { randomBytes } from 'node:crypto';
import type { Registry } from '../cell/registry.ts';
import type { Params, PeerSession, Result } from '../control/protocol.ts';
import { OsmosisError } from '../error.ts';
import { exchangeHello, type Voice } from '../h2o/cell-side.ts';
import type { H2oSocket } from '../h2o/socket.ts';
import { isAlive, startTicks } from '../proc/tree.ts';
import { newCellId, newTransaction } from '../wire/h2o.ts';
import type { Byes } from './bye.ts';
import { Holding } from './holding.ts';
import { askVerdict } from './verdicts.ts';

/** A peer's agent answers a HOLD within this, usually; then it is asked whether it is there at all. */
const ANSWER_MS = 300;
/**
 * It has answered something that it was asked later: its answer to the HOLD is lost, or there will be none, or it has passed the
 * HOLD on to where its end has gone.
 */
const GRACE_MS = 2_000;
/** The agent that suspended a cell answers within this. */
const VERDICT_MS_MAX = 3_000;
/** A peer ends its connections with a cell that was given up within this, usually; and is told for so long. */
const FAREWELL_WAIT_MS_MAX = 5_000;
const FAREWELL_MS_MAX = 600_000;
/** No connection has this port (tcpmux, RFC 1078): a HELLO that claims one is answered, and leaves nothing. */
const NO_FLOW_PORT = 1;

type Answered = Result<'resume.claim'>['peers'][number];
type Answer = Answered['answer'];

/** `sessions`: each with the epoch of its HOLD. */
export async function claim(
  voice: Voice,
  sessions: readonly PeerSession[],
  signal: AbortSignal,
): Promise<Answered[]> {
  const stop = new AbortController();
  const either = AbortSignal.any([signal, stop.signal]);
  try {
    return await Promise.all(sessions.map((session) => claimOf(voice, session, either)));
  } finally {
    stop.abort();
  }
}

async function claimOf(voice: Voice, session: PeerSession, signal: AbortSignal): Promise<Answered> {
  const { peer } = session;
  const holding = new Holding(voice.socket, [session], true);
  const answer = await ask(voice, session, holding, signal);
  const ends = holding.ends.get(peer);
  return ends === undefined ? { peer, answer } : { peer, answer, ends: [...ends] };
}

async function ask(
  voice: Voice,
  session: PeerSession,
  holding: Holding,
  signal: AbortSignal,
): Promise<Answer> {
  const isHeld = async (limit_ms: number) => (await holding.within(limit_ms, signal)).length === 0;
  if (await isHeld(ANSWER_MS)) return 'held';
  signal.throwIfAborted();
  // What it is asked now comes after the HOLD: a peer side serves one after the other.
  const isThere = await hasAgent(voice, session.peer, signal);
  if (await isHeld(isThere ? GRACE_MS : 0)) return 'held';
  return isThere ? 'other' : 'silent';
}

/** @throws OsmosisError IMAGE_STALE where the cell runs on this host. */
export function refuseRunning(registry: Pick<Registry, 'get' | 'isRegistered'>, cell: string): void {
  const found = registry.isRegistered(cell) ? registry.get(cell) : undefined;
  if (found === undefined || !isAlive(found.pid) || startTicks(found.pid) !== found.ticks) return;
  throw new OsmosisError('IMAGE_STALE', `the cell ${found.name} runs on this host already`, {
    phase: 'plan',
    owner: 'destination',
  });
}

/**
 * Tells the peers of a cell that is given up. `sessions`: each with the epoch of its BYE.
 * @returns those that have not acknowledged within FAREWELL_WAIT_MS_MAX; they are told for FAREWELL_MS_MAX
 */
export function giveUp(byes: Byes, cell: string, sessions: readonly PeerSession[]): Promise<string[]> {
  const farewells = sessions.map(({ peer, epoch, cell: id, tag, toPeer, toCell }) => ({
    peer,
    session: { cell: id, tag, toPeer, toCell },
    epoch,
    reason: 'ended' as const,
  }));
  return byes.sayUnder(cell, farewells, FAREWELL_WAIT_MS_MAX, FAREWELL_MS_MAX);
}

/** Whether a suspension was decided, for a file whose maker did not live to learn it. */
export async function verdictOf(
  socket: H2oSocket,
  migration: string,
  { addresses, key }: Params<'resume.verdict'>['source'],
  signal: AbortSignal,
): Promise<Result<'resume.verdict'>['verdict']> {
  const limit = AbortSignal.timeout(VERDICT_MS_MAX);
  const secret = { migration: Buffer.from(migration, 'hex'), key };
  return askVerdict(socket, secret, addresses, AbortSignal.any([signal, limit])).catch((error: unknown) => {
    if (limit.aborted && !signal.aborted) return 'silent';
    throw error;
  });
}

/** Asked as somebody whom it has never heard of, for a flow that nobody has. */
async function hasAgent(voice: Voice, peer: string, signal: AbortSignal): Promise<boolean> {
  const endpoint = { address: peer, port: NO_FLOW_PORT };
  const hello = {
    cell: newCellId(),
    transaction: newTransaction(),
    epoch: 0,
    publicKey: new Uint8Array(randomBytes(32)),
    claims: [{ protocol: 'tcp' as const, local: endpoint, peerAddress: peer, peerPorts: [NO_FLOW_PORT] }],
  };
  const { silent } = await exchangeHello(voice, peer, hello, signal);
  return !silent;
}
