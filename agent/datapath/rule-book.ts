/**
 * The rules in the kernel, and the flows that the programs create by them: entered, read, and taken out again. What a rule
 * is says rules.ts; created.ts has the parts of this that need no kernel.
 */
import { deleteLine, updateLine } from './bpftool.ts';
import {
  adoptCreated,
  decodeLabels,
  decodeSpent,
  freeNumber,
  idleFlows,
  newLimits,
  orphans,
  type Reading,
  unusedLabels,
} from './created.ts';
import { checkSides, isOfOwn, type Mirror, ruleText } from './mirror.ts';
import type { FlowEntry } from './model.ts';
import {
  checkRoom,
  type DrawnLabel,
  encodeLabel,
  encodeOwner,
  encodeRuleKey,
  encodeRuleValue,
  mapOf,
  type NumberedRule,
  RULES_MAX,
  type Rule,
  sideOf,
} from './rules.ts';
import { type Dump, readFlows } from './snapshot.ts';
import { full } from './table.ts';

/** What it needs of the datapath. */
export type Access = {
  readonly pinDir: string;
  readonly dump: Dump;
  /** In turn with all that is written. */
  readonly write: (lines: readonly string[], signal?: AbortSignal) => Promise<void>;
  /** Resolves once all that was to be written is. */
  readonly settle: () => Promise<void>;
  readonly removeFlows: (mirror: Mirror, flows: readonly FlowEntry[]) => Promise<void>;
  /** Around a change of what the loopback device is needed for; `enters`: it needs it. */
  readonly aroundLoopback: (mirror: Mirror, enters: boolean, change: () => Promise<void>) => Promise<void>;
};

export class RuleBook {
  readonly #access: Access;

  constructor(access: Access) {
    this.#access = access;
  }

  async put(mirror: Mirror, rules: readonly Rule[], signal?: AbortSignal): Promise<void> {
    for (const rule of rules) checkSides(mirror, [sideOf(rule)]);
    const { spent } = await this.#read(mirror, signal, (reading) => reading);
    checkRoom(
      rules.filter((rule) => !mirror.rules.has(ruleText(rule))),
      mirror.rules.values(),
    );
    const numbered = rules.map((rule) => {
      const known = mirror.rules.get(ruleText(rule));
      const number = known?.number ?? freeNumber(mirror.table, mirror.rules.values());
      if (number === undefined) throw full(`${RULES_MAX - 1} rules`);
      const added = rule.flowsMax - (known?.rule.flowsMax ?? 0);
      const entry = { rule, number, limit: ((known?.limit ?? spent[number] ?? 0) + added) >>> 0 };
      mirror.rules.set(ruleText(rule), entry);
      mirror.ruled = true;
      return entry;
    });
    const lines = numbered.map((rule) => this.#line(rule));
    const { aroundLoopback, write } = this.#access;
    await aroundLoopback(mirror, rules.some(isOfOwn), () => write(lines, signal));
  }

  async remove(mirror: Mirror, rules: readonly Rule[], signal?: AbortSignal): Promise<void> {
    const { pinDir, aroundLoopback, write } = this.#access;
    const removed = rules.filter((rule) => mirror.rules.delete(ruleText(rule)));
    const lines = removed.map((rule) => deleteLine(pinDir, mapOf(rule), encodeRuleKey(rule)));
    await aroundLoopback(mirror, false, () => write(lines, signal));
  }

  /** Takes the flows that rules have created into the mirror. */
  async refresh(mirror: Mirror, signal?: AbortSignal): Promise<void> {
    await this.#following(mirror, (changed) => this.#adopt(mirror, changed, signal));
  }

  async idle(msMax: number, signal?: AbortSignal): Promise<FlowEntry[]> {
    const { dump } = this.#access;
    const [egress, ingress] = await Promise.all([dump('egress', signal), dump('ingress', signal)]);
    return idleFlows(egress, ingress, msMax);
  }

  /** One at a time, for it removes what it has read. */
  async removeCreated(
    mirror: Mirror,
    which: (flow: FlowEntry) => boolean,
    signal?: AbortSignal,
  ): Promise<DrawnLabel[]> {
    const { pinDir, write, removeFlows } = this.#access;
    const { table, rules } = mirror;
    await this.refresh(mirror, signal);
    await removeFlows(
      mirror,
      [...table.flows.values()].filter((flow) => flow.rule !== undefined && which(flow)),
    );
    const { labels, writing } = await this.#read(mirror, signal, ({ spent, drawn, ingress, changed }) => {
      const lost = changed ? [] : orphans(table, ingress);
      const limits = newLimits(table, rules.values(), spent);
      const unused = unusedLabels(table, drawn);
      for (const rule of limits) rules.set(ruleText(rule.rule), rule);
      const lines = [
        ...lost.map((key) => deleteLine(pinDir, 'ingress', key)),
        ...unused.map((label) => deleteLine(pinDir, 'labels', encodeOwner(label))),
        ...unused.map((label) => deleteLine(pinDir, 'drawn', encodeLabel(label))),
        ...limits.map((rule) => this.#line(rule)),
      ];
      // Begun before anything else can change the mirror.
      return { labels: unused, writing: write(lines) };
    });
    await writing;
    return labels;
  }

  /**
   * Reads what the programs write, the flows last, and takes into the mirror the flows that they have created. `then` gets
   * what was read before the mirror can change again.
   */
  async #read<T>(mirror: Mirror, signal: AbortSignal | undefined, then: (reading: Reading) => T): Promise<T> {
    const { dump } = this.#access;
    return await this.#following(mirror, async (changed) => {
      const [spent, drawn, ingress] = await Promise.all([
        dump('spent', signal),
        dump('drawn', signal),
        dump('ingress', signal),
      ]);
      await this.#adopt(mirror, changed, signal);
      const reading = { spent: decodeSpent(spent), drawn: decodeLabels(drawn), ingress };
      return then({ ...reading, changed: changed.size > 0 });
    });
  }

  async #adopt(mirror: Mirror, changed: ReadonlySet<string>, signal?: AbortSignal): Promise<void> {
    adoptCreated(mirror.table, await readFlows(this.#access.dump, signal), changed);
  }

  /** `read` gets to know, by `keyOf`, what the agent changes while it reads. */
  async #following<T>(mirror: Mirror, read: (changed: ReadonlySet<string>) => Promise<T>): Promise<T> {
    const changed = new Set<string>();
    mirror.changed.add(changed);
    try {
      // Whatever has left the mirror before is out of the kernel now.
      await this.#access.settle();
      return await read(changed);
    } finally {
      mirror.changed.delete(changed);
    }
  }

  #line(numbered: NumberedRule): string {
    const { rule } = numbered;
    const { pinDir } = this.#access;
    return updateLine(pinDir, mapOf(rule), encodeRuleKey(rule), encodeRuleValue(numbered));
  }
}
