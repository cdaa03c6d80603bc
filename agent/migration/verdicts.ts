/** QUERY and VERDICT: a destination that was cut off asks the source's agent, which holds the decision. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type AgentContext, decisionDirectory } from '../context.ts';
import { Decision } from '../criu/decision.ts';
import type { H2oSocket } from '../h2o/socket.ts';
import { isDrop } from '../wire/h2o-layout.ts';
import {
  consumeQuery,
  consumeVerdict,
  createQuery,
  createVerdict,
  type MigrationKey,
  newQueryNonce,
} from '../wire/h2o-verdict.ts';

/** A question without an answer is asked again, without end: only the source knows, and it will come back. */
const ASK_AGAIN_MS = 250;
const ASK_AGAIN_LATER_MS = 5_000;
/** A destination that has its answer stops asking: after this much silence nobody needs the decision any more. */
const ANSWERED_QUIET_MS = 5_000;
/** After this many questions the waits get long. */
const ASK_OFTEN_MAX = 240;

/** Answers every authentic QUERY for a migration whose decision this host holds. */
export function answerQueries(context: AgentContext, isUnderWay: (migration: string) => boolean): void {
  const { socket } = context;
  const answered = new Map<string, NodeJS.Timeout>();
  const clearWhenQuiet = (migration: string, decision: Decision) => {
    clearTimeout(answered.get(migration));
    const timer = setTimeout(() => {
      answered.delete(migration);
      if (isUnderWay(migration)) clearWhenQuiet(migration, decision);
      else decision.clear();
    }, ANSWERED_QUIET_MS);
    answered.set(migration, timer.unref());
  };
  socket.listen((message, from) => {
    if (message.type !== 'query') return;
    const migration = Buffer.from(message.migration).toString('hex');
    const decision = new Decision(decisionDirectory(context), migration);
    const key = decision.key();
    if (key === undefined) return;
    const secret: MigrationKey = { migration: message.migration, key };
    const query = consumeQuery(secret, message);
    if (isDrop(query)) return socket.drop(query.drop);
    // No file and nobody at work on it: the agent or the host died before it decided, which is an abort.
    const verdict = decision.read() ?? (isUnderWay(migration) ? 'undecided' : decision.decide('abort'));
    socket.send(createVerdict(secret, query, verdict), from.address, from.port);
    if (verdict !== 'undecided') clearWhenQuiet(migration, decision);
  });
}

/** Asks until there is a decision. @throws the abort reason of `signal`. */
export async function askVerdict(
  socket: H2oSocket,
  secret: MigrationKey,
  addresses: readonly string[],
  signal: AbortSignal,
): Promise<'commit' | 'abort'> {
  let verdict: 'commit' | 'abort' | undefined;
  let nonce = newQueryNonce();
  for (const address of addresses) socket.expect(address);
  const stop = socket.listen((message) => {
    if (message.type !== 'verdict') return;
    const answer = consumeVerdict(secret, nonce, message);
    if (!isDrop(answer) && answer.verdict !== 'undecided') verdict = answer.verdict;
  });
  try {
    for (let asked = 0; ; asked++) {
      nonce = newQueryNonce();
      for (const address of addresses) socket.send(createQuery(secret, nonce), address);
      await sleep(asked < ASK_OFTEN_MAX ? ASK_AGAIN_MS : ASK_AGAIN_LATER_MS, undefined, { signal });
      if (verdict !== undefined) return verdict;
    }
  } finally {
    stop();
  }
}
