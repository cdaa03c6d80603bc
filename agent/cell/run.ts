/** `osmosis run`: a program in a cell from its start, in PID and mount namespaces of its own, on the host's network. */

import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AgentContext } from '../context.ts';
import type { Params } from '../control/protocol.ts';
import { inOwnSession, insideArgv } from '../criu/argv.ts';
import { OsmosisError } from '../error.ts';
import { procLink, procText } from '../proc/text.ts';
import { childrenOf, isAlive, startTicks } from '../proc/tree.ts';
import { checkTerminal, startSession, terminalEnvironment } from '../terminal/start.ts';
import { serverArgv } from '../terminal/tmux.ts';
import { AS_IT_IS, canFilter, type Movable, withoutIoUring, withoutMptcp } from './movable.ts';
import { createNamespaces, destroyNamespaces, mountTerminals } from './namespaces.ts';
import type { Cell, Registry } from './registry.ts';

const START_MS_MAX = 2_000;
const START_POLL_MS = 10;
const ENDED_MS_MAX = 15_000;
const ENDED_POLL_MS = 50;
/** What the process is before it is the program. */
const BEFORE = new Set(['', 'nsenter', 'setsid', 'setpriv']);

type Started = { readonly cell: Cell; readonly movable: Movable };

export async function runCell(context: AgentContext, params: Params<'run'>): Promise<Started> {
  const { registry, cordon } = context;
  const { name, argv, cwd, terminal } = params;
  cordon.refuse(hostname());
  if (terminal !== undefined) await checkTerminal(cwd);
  const id = randomBytes(16).toString('hex');
  if (name !== undefined) await untilGone(registry, name);
  const command = (argv[0] ?? '').replace(/^.*\//, '').replace(/[^A-Za-z0-9._-]/g, '-') || 'cell';
  const cellName = name ?? `${command}-${id.slice(0, 4)}`;
  const release = registry.holdName(cellName);
  try {
    return await startCell(context, { ...params, id, name: cellName });
  } finally {
    release();
  }
}

async function startCell(
  { registry, paths, terminals }: AgentContext,
  { id, name, placement = {}, argv, cwd, env, as_is, terminal }: Params<'run'> & { id: string; name: string },
): Promise<Started> {
  const init = await createNamespaces(false);
  const nothing = openSync(`/proc/${init.pid}/root/dev/null`, 'r+');
  try {
    const files = terminals.files(id);
    if (terminal !== undefined) await mountTerminals(init);
    const filters = !as_is && (await canFilter());
    const root = terminal === undefined ? argv : serverArgv(files.socket);
    const program = filters ? withoutIoUring(paths.run, root) : root;
    const [file = '', ...args] = insideArgv({ init: init.pid, net: false }, inOwnSession(program));
    const asGiven = Object.fromEntries(env);
    const given = terminal === undefined ? asGiven : terminalEnvironment(asGiven);
    // A child of the cell's init, not of nsenter: nsenter stays outside and would be a stranger's parent.
    const child = spawn(file, args, {
      cwd: terminal === undefined ? cwd : '/',
      env: as_is ? given : withoutMptcp(given),
      stdio: [nothing, nothing, nothing],
      detached: true,
    });
    child.on('error', () => undefined);
    child.unref();
    const pid = await programOf(child.pid ?? 0, init.pid);
    if (terminal !== undefined) await startSession({ files, terminal, cwd, program: argv });
    const cell: Cell = {
      id,
      name,
      pid,
      ticks: startTicks(pid) ?? 0,
      init,
      link: undefined,
      addresses: [],
      side: 0,
      labels: [],
      flows: [],
      peers: [],
      placement,
      ...(terminal && { terminal: { escape: terminal.escape } }),
    };
    registry.put(cell);
    const denied = filters ? 'denied' : 'allowed';
    return { cell, movable: as_is ? AS_IT_IS : { io_uring: denied, mptcp: 'off' } };
  } catch (error) {
    await destroyNamespaces(init);
    terminals.clear(id);
    throw error;
  } finally {
    closeSync(nothing);
  }
}

/** A cell of this name whose process has ended is taken away by the next look, or once its connections are closed. */
async function untilGone(registry: Registry, name: string): Promise<void> {
  const ends = Date.now() + ENDED_MS_MAX;
  const isEnding = ({ name: its, pid, ticks }: Cell) =>
    its === name && !(isAlive(pid) && startTicks(pid) === ticks);
  while (registry.all().some(isEnding) && Date.now() < ends) await sleep(ENDED_POLL_MS);
}

/** nsenter forks to enter a PID namespace: the program is its child, once it is no longer setsid itself. */
async function programOf(nsenter: number, init: number): Promise<number> {
  const namespace = procLink(`/proc/${init}/ns/pid`);
  for (let waited = 0; waited < START_MS_MAX; waited += START_POLL_MS) {
    const pid = childrenOf(nsenter)[0];
    const started = pid !== undefined && procLink(`/proc/${pid}/ns/pid`) === namespace;
    const words = procText(`/proc/${pid}/cmdline`)?.split('\0');
    if (started && words !== undefined && !BEFORE.has(words[0] ?? '')) return pid;
    if (procText(`/proc/${nsenter}/status`)?.includes('\nState:\tZ') === true) break;
    await sleep(START_POLL_MS);
  }
  throw new OsmosisError(
    'CELL',
    'the program did not start, or ended at once; nothing is left of it. Is its path right?',
  );
}
