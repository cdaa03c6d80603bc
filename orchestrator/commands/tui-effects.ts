/** What the interactive display does in the world: plans, moves, suspends, resumes, drains. */
import { asOsmosisError } from '../../agent/error.ts';
import { drainText, placementText } from '../display/drain.ts';
import { planText } from '../display/plan.ts';
import { resultText } from '../display/result.ts';
import { type View, viewOf } from '../display/state.ts';
import { type DrainProgress, drain } from '../drain/drain.ts';
import { type PlannedDrain, planDrain } from '../drain/plan.ts';
import { beginDrain, drainEnd, drainRows } from '../drain/state.ts';
import type { MigrationEvent } from '../events.ts';
import { parseSelector } from '../fleet/selector.ts';
import { checkPlan, makePlan } from '../plan.ts';
import { RESUMPTION_PHASES, resume } from '../resume.ts';
import { withNewSecret } from '../stored/new-file.ts';
import { ImageFileReader } from '../stored/reader.ts';
import { secretFor } from '../stored/secret.ts';
import { SUSPENSION_PHASES, suspend } from '../suspend.ts';
import { cellAt, type Effect, type HistoryEntry, type Model } from '../tui/model.ts';
import { failureLines, type TuiEvent } from '../tui/update.ts';
import { drivenBy, limitsOf, progressLine } from './drain.ts';
import { type HostOptions, Hosts, usingHosts } from './hosts.ts';
import { openHost } from './migrate.ts';
import { moveAlone } from './mover.ts';
import { resumedText } from './resume.ts';
import { suspendedText } from './suspend.ts';

export type World = {
  readonly options: HostOptions;
  readonly hosts: Hosts;
  /** Fires when the display has ended. */
  readonly signal: AbortSignal;
  readonly model: () => Model;
  readonly tell: (event: TuiEvent) => void;
  readonly quit: () => void;
};
type What = HistoryEntry['what'];

/** Carries out effects. One thing is under way at a time (update.ts sees to that); looking does not count. */
export class Effects {
  readonly #world: World;
  /** Of what is under way: undoes it up to its commit. */
  #undo = new AbortController();
  /** Of a drain: no move begins any more. */
  #stop = new AbortController();
  #plannedDrain: PlannedDrain | undefined;
  #drainHosts: Hosts | undefined;

  constructor(world: World) {
    this.#world = world;
  }

  /** Never rejects: what fails is told. */
  run(effect: Effect): void {
    void this.#carryOut(effect);
  }

  async #carryOut(effect: Effect): Promise<void> {
    switch (effect.do) {
      case 'quit':
        this.#world.quit();
        break;
      case 'interrupt':
        this.#interrupt();
        break;
      case 'plan':
        await this.#plan(effect);
        break;
      case 'planDrain':
        await this.#planDrain(effect);
        break;
      case 'drain':
        await this.#drain(effect.host);
        break;
      case 'uncordon':
        await this.#uncordon(effect.host);
        break;
      case 'move':
        await this.#work('move', viewOf(), (signal, emit) => this.#move(effect, signal, emit));
        break;
      case 'suspend':
        await this.#work('suspend', viewOf(SUSPENSION_PHASES), (signal, emit) =>
          this.#suspend(effect, signal, emit),
        );
        break;
      case 'resume':
        await this.#work('resume', viewOf(RESUMPTION_PHASES), (signal, emit) =>
          this.#resume(effect, signal, emit),
        );
        break;
    }
  }

  #interrupt(): void {
    // The second time also the moves of a drain that have begun.
    if (this.#world.model().drain?.over === false && !this.#stop.signal.aborted) this.#stop.abort('stopped');
    else this.#undo.abort();
  }

  async #plan(of: Effect & { do: 'plan' }): Promise<void> {
    const { cell, to } = of;
    const { tell, signal } = this.#world;
    const told = (lines: readonly string[], ok: boolean) => tell({ event: 'planned', of, lines, ok });
    try {
      const { plan } = await this.#using(signal, async (hosts) => {
        const [source, destination] = [await agentOf(hosts, cell.host), await agentOf(hosts, to)];
        return await makePlan(cell.cell, undefined, source, destination, { signal });
      });
      const lines = linesOf(planText(plan));
      try {
        checkPlan(plan, 'refuse');
        told([...lines, '', 'y moves it.'], true);
      } catch (thrown) {
        told([...lines, '', ...failureLines(asOsmosisError(thrown))], false);
      }
    } catch (thrown) {
      told(failureLines(asOsmosisError(thrown)), false);
    }
  }

  async #planDrain(of: Effect & { do: 'planDrain' }): Promise<void> {
    const { host } = of;
    const { tell, hosts, model, options, signal } = this.#world;
    const own = new Hosts(options, hosts.fleet, signal);
    // Whoever asks again, or for another host, is not answered with this one.
    const told = (lines: readonly string[], ok: boolean) => {
      if (this.#drainHosts === own) tell({ event: 'planned', of, lines, ok });
    };
    const before = this.close();
    this.#drainHosts = own;
    try {
      await before;
      const { legacy } = limitsOf({ dryRun: true, yes: true }, hosts.fleet);
      const plan = await planDrain({
        host,
        to: model().hosts.flatMap(({ name }) => (name === host ? [] : [name])),
        select: parseSelector('name'),
        legacy,
        connect: (name) => agentOf(own, name),
        signal,
      });
      if (this.#drainHosts === own) this.#plannedDrain = plan;
      const lines = linesOf(placementText(host, plan.placements, plan.hosts));
      told([...lines, '', 'y cordons the host and moves them.'], true);
    } catch (thrown) {
      told(failureLines(asOsmosisError(thrown)), false);
    }
  }

  async #drain(host: string): Promise<void> {
    const { tell, hosts, options } = this.#world;
    const planned = this.#plannedDrain;
    if (planned === undefined) return;
    this.#begin();
    const signal = this.#undo.signal;
    const { parallel, legacy } = limitsOf({ dryRun: true, yes: true }, hosts.fleet);
    const entry = (text: string, ok: boolean): HistoryEntry => ({ at: Date.now(), what: 'drain', text, ok });
    try {
      await planned.source.call('cordon', { dry_run: false, reason: 'drain' });
      const state = await drain({
        state: beginDrain(planned.cells, planned.hosts, parallel),
        source: planned.source,
        record: { by: drivenBy(), started: Date.now() },
        stop: this.#stop.signal,
        emit: (event: DrainProgress) => {
          const line = progressLine(event);
          if (line !== '') tell({ event: 'drained', lines: linesOf(line) });
        },
        move: (target, to, emit) =>
          moveAlone(options, hosts.fleet, { target, from: host, to, legacy, signal, emit }),
      });
      const end = drainEnd(state);
      const rows = drainRows(state).map((row) => ({ ...row, from: host }));
      const moved = rows.filter((row) => row.state === 'moved').length;
      const text = `drain of ${host}: ${moved} of ${rows.length} cells moved`;
      tell({
        event: 'drained',
        lines: linesOf(drainText(host, end, rows)),
        entry: entry(text, end === 'done'),
      });
    } catch (thrown) {
      const lines = failureLines(asOsmosisError(thrown));
      tell({ event: 'drained', lines, entry: entry(`drain of ${host}: ${lines.join(' ')}`, false) });
    } finally {
      await this.close();
    }
  }

  async #uncordon(host: string): Promise<void> {
    const { signal } = this.#world;
    await this.#using(signal, async (hosts) => {
      const agent = await agentOf(hosts, host);
      await agent.call('uncordon', { dry_run: false }, { signal });
    }).catch(() => undefined);
  }

  async #work(
    what: Exclude<What, 'drain'>,
    view: View,
    action: (signal: AbortSignal, emit: (event: MigrationEvent) => void) => Promise<string>,
  ): Promise<void> {
    const { tell, model } = this.#world;
    const title = model().work?.title ?? '';
    tell({ event: 'began', what, title, view });
    this.#begin();
    const emit = (of: MigrationEvent) => tell({ event: 'progress', of, nowMs: performance.now() });
    const end = (ok: boolean, lines: readonly string[]) =>
      tell({
        event: 'ended',
        ok,
        lines,
        entry: { at: Date.now(), what, ok, text: `${what} ${title}: ${lines[0] ?? ''}` },
      });
    try {
      end(true, linesOf(await action(this.#undo.signal, emit)));
    } catch (thrown) {
      end(false, failureLines(asOsmosisError(thrown)));
    }
  }

  #begin(): void {
    this.#undo = new AbortController();
    this.#stop = new AbortController();
  }

  async #move(
    { cell, to }: Effect & { do: 'move' },
    signal: AbortSignal,
    emit: (event: MigrationEvent) => void,
  ): Promise<string> {
    const { options, hosts } = this.#world;
    const request = { target: cell.cell, from: cell.host, to, legacy: 'refuse', signal, emit } as const;
    return resultText(await moveAlone(options, hosts.fleet, request));
  }

  async #suspend(
    { cell, file }: Effect & { do: 'suspend' },
    signal: AbortSignal,
    emit: (event: MigrationEvent) => void,
  ): Promise<string> {
    const target = cellAt(this.#world.model(), cell)?.name ?? cell.cell;
    const request = { target, legacy: 'refuse', udp: 'hold', file, signal, emit } as const;
    return await this.#using(signal, async (hosts) => {
      const source = await openHost(hosts, cell.host);
      return await withNewSecret(file, {}, async (secret) =>
        suspendedText(await suspend({ ...request, secret, source })),
      );
    });
  }

  async #resume(
    { file, host: name }: Effect & { do: 'resume' },
    signal: AbortSignal,
    emit: (event: MigrationEvent) => void,
  ): Promise<string> {
    const reader = await ImageFileReader.open(file);
    try {
      const image = await reader.unlock(await secretFor(file, reader.key, {}));
      const request = { reader, image, dropGone: false, again: false, signal, emit };
      return await this.#using(signal, async (hosts) =>
        resumedText(await resume({ ...request, host: await openHost(hosts, name) })),
      );
    } finally {
      await reader.close();
    }
  }

  /** Hosts for one thing only. */
  async #using<T>(signal: AbortSignal, action: (hosts: Hosts) => Promise<T>): Promise<T> {
    const { options, hosts } = this.#world;
    return await usingHosts(options, hosts.fleet, signal, action);
  }

  /** Lets go of the hosts of a planned drain. */
  async close(): Promise<void> {
    const hosts = this.#drainHosts;
    this.#drainHosts = undefined;
    this.#plannedDrain = undefined;
    await hosts?.close();
  }
}

async function agentOf(hosts: Hosts, host: string) {
  return await hosts.agent(await hosts.connect(host));
}

function linesOf(text: string): string[] {
  return text.trimEnd().split('\n');
}
