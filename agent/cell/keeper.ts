/** Looks after the cells of this host: what has ended is taken away, with all that was made for it. */

import { type Flow, flowKey } from '../address.ts';
import type { AgentContext } from '../context.ts';
import { messageOf } from '../error.ts';
import { socketIndex } from '../proc/socket-index.ts';
import { type InetSocket, inetSockets } from '../proc/sockets.ts';
import { isAlive, startTicks } from '../proc/tree.ts';
import { isInitAlive } from './namespaces.ts';
import { NewFlowSweep } from './new-flows.ts';
import type { Cell, CellFlow } from './registry.ts';
import { takeDown } from './take-down.ts';

const SWEEP_MS = 1_000;
/** Looking takes this part of a core at most: with 10,000 flows, and under load, one look takes 0.2 s. */
const LOOKING_SHARE = 1 / 10;
const REST_MS_MAX = 10_000;
/** Connections of a process that has ended get this long to say goodbye. */
const CLOSING_MS_MAX = 60_000;
/** A flow is forgotten when its socket is missing in this many sweeps in a row. */
const SWEEPS_MISSING_MAX = 3;

export class CellKeeper {
  readonly #context: AgentContext;
  readonly #onEnded: (cell: Cell, flows: readonly CellFlow[]) => void;
  readonly #endedAt = new Map<string, number>();
  readonly #missing = new WeakMap<Flow, number>();
  readonly #newFlows: NewFlowSweep;
  #timer: NodeJS.Timeout | undefined;
  #sweeping = false;
  #restUntil = 0;

  /** `onEnded` is told of flows whose sockets have ended. */
  constructor(context: AgentContext, onEnded: (cell: Cell, flows: readonly CellFlow[]) => void) {
    this.#context = context;
    this.#onEnded = onEnded;
    this.#newFlows = new NewFlowSweep(context);
  }

  start(): void {
    this.#timer = setInterval(() => void this.#sweep(), SWEEP_MS);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  async #sweep(): Promise<void> {
    if (this.#sweeping || performance.now() < this.#restUntil) return;
    this.#sweeping = true;
    const before = process.cpuUsage();
    try {
      await this.#newFlows.look();
      for (const { id } of this.#context.registry.all()) await this.#lookAt(id);
      await this.#context.openings.look();
    } catch (error) {
      this.#context.log.warn(
        { error: messageOf(error) },
        'looking after the cells failed; it is tried again',
      );
    } finally {
      this.#sweeping = false;
      const { user, system } = process.cpuUsage(before);
      const rest_ms = (user + system) / 1_000 / LOOKING_SHARE;
      this.#restUntil = performance.now() + Math.min(rest_ms - SWEEP_MS, REST_MS_MAX);
    }
  }

  /** As it is by now: those before it may have taken their time, and it may have moved away meanwhile. */
  async #lookAt(id: string): Promise<void> {
    const { registry } = this.#context;
    const cell = registry.isRegistered(id) ? registry.get(id) : undefined;
    if (cell !== undefined && !registry.isLocked(id)) await this.#look(cell);
  }

  async #look(cell: Cell): Promise<void> {
    if (cell.init !== undefined && !isInitAlive(cell.init)) return this.#remove(cell);
    if (isAlive(cell.pid) && startTicks(cell.pid) === cell.ticks) return this.#forgetEnded(cell);
    const endedAt = this.#endedAt.get(cell.id) ?? Date.now();
    this.#endedAt.set(cell.id, endedAt);
    const closing =
      cell.link !== undefined && socketsOf(cell).some(({ state }) => state !== 'listen' && state !== 'close');
    if (!closing || Date.now() - endedAt > CLOSING_MS_MAX) await this.#remove(cell);
  }

  async #forgetEnded(cell: Cell): Promise<void> {
    // At home there are no entries, but names.
    const flows = cell.link === undefined ? (cell.known ?? []) : cell.flows;
    // Most cells at home have none: the host's table, which may be long, is not read for them.
    if (flows.length === 0) return;
    const present = socketIndex(socketsOf(cell));
    const ended = flows.filter((flow) => {
      const missing = present.has(flow) ? 0 : (this.#missing.get(flow) ?? 0) + 1;
      if (missing === 0 || missing >= SWEEPS_MISSING_MAX) this.#missing.delete(flow);
      else this.#missing.set(flow, missing);
      return missing >= SWEEPS_MISSING_MAX;
    });
    if (ended.length === 0) return;
    const gone = new Set(ended.map((flow) => flowKey(flow)));
    const entered = cell.flows.filter((flow) => gone.has(flowKey(flow)));
    this.#onEnded(cell, entered);
    await this.#context.datapath.removeLocals(entered);
    const isThere = (flow: Flow) => !gone.has(flowKey(flow));
    const now = this.#context.registry.get(cell.id) ?? cell;
    this.#context.registry.put({
      ...now,
      flows: now.flows.filter(isThere),
      known: (now.known ?? []).filter(isThere),
    });
  }

  async #remove(cell: Cell): Promise<void> {
    const { registry, log } = this.#context;
    log.info({ cell: cell.name }, 'the cell has ended');
    // Nobody enters anything for it any more.
    registry.lock(cell.id);
    try {
      await this.#takeOut(cell);
    } finally {
      registry.unlock(cell.id);
    }
  }

  async #takeOut(cell: Cell): Promise<void> {
    const { byes, datapath, openings, registry, terminals } = this.#context;
    await openings.close(cell);
    // Whoever follows it, or carries its flows on for others, forgets it.
    if (cell.peers.length > 0) await byes.say(cell.id, cell.peers, () => registry.save(cell.id), 'ended');
    await datapath.removeLocals(cell.flows);
    if (cell.side !== 0) await datapath.removeSide(cell.side);
    await takeDown(this.#context, cell);
    terminals.ended(cell);
    registry.remove(cell.id);
    this.#endedAt.delete(cell.id);
    await datapath.removeIfEmpty();
  }
}

/** In the network namespace that it lives in. */
function socketsOf({ init }: Cell): InetSocket[] {
  if (init === undefined) return [];
  return inetSockets(init.pid).filter(({ state }) => state !== 'time-wait');
}
