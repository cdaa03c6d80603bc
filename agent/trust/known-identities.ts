/** Whom this host knows at which address, what it makes of strangers, and whom it has refused. */
import { existsSync, readFileSync } from 'node:fs';
import { z } from 'zod';
import { messageOf, OsmosisError } from '../error.ts';
import { writeDurably } from './identity-file.ts';

/** `first-use`: whoever comes first from an address is known there from then on. `pinned`: whom the operator named. */
export const POLICIES = ['first-use', 'pinned'] as const;
export type Policy = (typeof POLICIES)[number];

/** Addresses that are known. Where there are more, those by first use go that have not been seen for longest. */
export const KNOWN_MAX = 4_096;
export const REVOKED_MAX = 4_096;
/** Refusals that are told of. */
const REFUSED_MAX = 256;
/** What was learnt is written down after this, off the path of whatever taught it. */
const SAVE_AFTER_MS = 1_000;
/** A refusal that comes again is logged again after this. */
const LOG_EVERY_MS = 10_000;

const knownSchema = z.object({
  address: z.string(),
  /** SHA256:… */
  fingerprint: z.string(),
  how: z.enum(POLICIES),
  /** ms since the epoch. */
  since: z.number(),
});
const revokedSchema = z.object({ fingerprint: z.string(), since: z.number() });
const fileSchema = z.object({
  policy: z.enum(POLICIES),
  known: z.array(knownSchema),
  revoked: z.array(revokedSchema),
});
export type Known = z.infer<typeof knownSchema>;
export type Revoked = z.infer<typeof revokedSchema>;

/** `mismatch`: another identity is known at that address. `unknown`: none is that counts. `revoked`: never again. */
export type Why = 'mismatch' | 'unknown' | 'revoked';
export type Distrust = { readonly why: Why; readonly known: Known | undefined };
export type Refused = {
  readonly address: string;
  readonly fingerprint: string;
  readonly why: Why;
  readonly count: number;
  /** ms since the epoch. */
  readonly last: number;
};

export type Pin = { readonly address: string; readonly fingerprint: string };
/** `conflict`: another identity is pinned there; `revoked`: that identity was; neither is overruled without being told to. */
export type PinAction = 'pinned' | 'unchanged' | 'replaced' | 'conflict' | 'revoked';
export type PinRow = Pin & { readonly action: PinAction; readonly before?: string };

type Log = { warn(fields: object, message: string): void };

export class KnownIdentities {
  readonly #path: string;
  readonly #log: Log;
  #policy: Policy = 'first-use';
  #decisions = 0;
  /** By address; those seen last are last. */
  readonly #known = new Map<string, Known>();
  readonly #revoked = new Map<string, Revoked>();
  readonly #refused = new Map<string, Refused & { logged: number }>();

  #saving: NodeJS.Timeout | undefined;

  /** @throws OsmosisError USAGE where the file can't be understood: to go on would be to forget whom to refuse. */
  constructor(path: string, log: Log) {
    this.#path = path;
    this.#log = log;
    if (existsSync(path)) this.#load();
    else this.#save();
  }

  get policy(): Policy {
    return this.#policy;
  }

  /** Rises with each decision of the operator: whoever was trusted before may be so no longer. */
  get decisions(): number {
    return this.#decisions;
  }

  setPolicy(policy: Policy): void {
    this.#decisions++;
    this.#policy = policy;
    this.#save();
  }

  all(): Known[] {
    return [...this.#known.values()].toSorted((a, b) => (a.address < b.address ? -1 : 1));
  }

  revoked(): Revoked[] {
    return [...this.#revoked.values()];
  }

  /** Since the agent started. */
  refused(): Refused[] {
    return [...this.#refused.values()].map(({ logged: _, ...refused }) => refused);
  }

  /** What is wrong with this identity at this address; undefined where nothing is. Changes nothing. */
  judge(address: string, fingerprint: string): Distrust | undefined {
    const known = this.#known.get(address);
    if (this.#revoked.has(fingerprint)) return { why: 'revoked', known };
    const counts = known !== undefined && (this.#policy === 'first-use' || known.how === 'pinned');
    if (counts) return known.fingerprint === fingerprint ? undefined : { why: 'mismatch', known };
    return this.#policy === 'first-use' ? undefined : { why: 'unknown', known: undefined };
  }

  /** Nothing is wrong with it: it is known from now on. */
  see(address: string, fingerprint: string): void {
    const known = this.#known.get(address);
    this.#known.delete(address);
    this.#known.set(address, known ?? { address, fingerprint, how: 'first-use', since: Date.now() });
    if (known !== undefined) return;
    this.#makeRoom();
    this.#saving ??= setTimeout(() => this.flush(), SAVE_AFTER_MS);
    this.#saving.unref();
  }

  /** True if it is to be logged: it is new, or was logged long ago. */
  noteRefusal(address: string, fingerprint: string, why: Why): boolean {
    const key = `${address} ${fingerprint}`;
    const before = this.#refused.get(key);
    const last = Date.now();
    const isDue = before === undefined || last - before.logged >= LOG_EVERY_MS;
    this.#refused.delete(key);
    this.#refused.set(key, {
      address,
      fingerprint,
      why,
      count: (before?.count ?? 0) + 1,
      last,
      logged: isDue ? last : before.logged,
    });
    const oldest = this.#refused.keys().next().value;
    if (this.#refused.size > REFUSED_MAX && oldest !== undefined) this.#refused.delete(oldest);
    return isDue;
  }

  /** All of them, or, where one is in conflict and not to be replaced, none; with `dryRun` none. One row each. */
  pin(pins: readonly Pin[], { replace, dryRun }: { replace: boolean; dryRun: boolean }): PinRow[] {
    const rows = pins.map((pin) => this.#pinRow(pin, replace));
    if (dryRun || rows.some(({ action }) => action === 'conflict' || action === 'revoked')) return rows;
    const news = new Set(pins.map(({ address }) => address));
    const kept = this.all().filter(({ address, how }) => how === 'pinned' && !news.has(address)).length;
    if (kept + news.size > KNOWN_MAX)
      throw new OsmosisError(
        'USAGE',
        `a host can pin ${KNOWN_MAX} addresses; nothing was changed. Revoke some first.`,
      );
    this.#decisions++;
    for (const { address, fingerprint } of pins) {
      this.#known.delete(address);
      this.#known.set(address, { address, fingerprint, how: 'pinned', since: Date.now() });
      this.#revoked.delete(fingerprint);
      this.#forgive(address, fingerprint);
    }
    this.#makeRoom();
    this.#save();
    return rows;
  }

  /** It is refused everywhere from now on, until it is pinned again. Returns where it was known. */
  revoke(fingerprint: string, dryRun: boolean): Known[] {
    const gone = this.all().filter((known) => known.fingerprint === fingerprint);
    if (dryRun) return gone;
    if (this.#revoked.size >= REVOKED_MAX && !this.#revoked.has(fingerprint))
      throw new OsmosisError(
        'USAGE',
        `a host can refuse ${REVOKED_MAX} revoked identities; nothing was changed. With the policy pinned it refuses all that are not pinned.`,
      );
    this.#decisions++;
    for (const { address } of gone) this.#known.delete(address);
    this.#revoked.set(fingerprint, { fingerprint, since: Date.now() });
    this.#save();
    return gone;
  }

  /** Writes down what was learnt last. It is known in any case, until the agent stops. */
  flush(): void {
    if (this.#saving === undefined) return;
    try {
      this.#save();
    } catch (error) {
      this.#log.warn({ error: messageOf(error) }, 'identities that were learnt can not be written down');
    }
  }

  /** The identity that is known at an address. */
  at(address: string): Known | undefined {
    return this.#known.get(address);
  }

  #pinRow({ address, fingerprint }: Pin, replace: boolean): PinRow {
    const known = this.#known.get(address);
    const before = known === undefined ? {} : { before: known.fingerprint };
    const row = (action: PinAction): PinRow => ({ address, fingerprint, action, ...before });
    if (this.#revoked.has(fingerprint) && !replace) return row('revoked');
    if (known === undefined) return row('pinned');
    if (known.fingerprint === fingerprint) return row(known.how === 'pinned' ? 'unchanged' : 'pinned');
    return row(known.how === 'pinned' && !replace ? 'conflict' : 'replaced');
  }

  /** What was refused there is right now, or superseded by what is. */
  #forgive(address: string, fingerprint: string): void {
    this.#refused.delete(`${address} ${fingerprint}`);
  }

  #makeRoom(): void {
    for (const { address, how } of this.#known.values()) {
      if (this.#known.size <= KNOWN_MAX) return;
      if (how === 'first-use') this.#known.delete(address);
    }
  }

  #load(): void {
    let text: unknown;
    try {
      text = JSON.parse(readFileSync(this.#path, 'utf8'));
    } catch {
      text = undefined;
    }
    const parsed = fileSchema.safeParse(text);
    if (!parsed.success)
      throw new OsmosisError(
        'USAGE',
        `${this.#path} is damaged: it says which agents this host trusts. Restore it, or remove it to begin anew (docs/trust.md).`,
      );
    this.#policy = parsed.data.policy;
    for (const known of parsed.data.known) this.#known.set(known.address, known);
    for (const revoked of parsed.data.revoked) this.#revoked.set(revoked.fingerprint, revoked);
  }

  #save(): void {
    clearTimeout(this.#saving);
    this.#saving = undefined;
    const [policy, known, revoked] = [this.#policy, [...this.#known.values()], this.revoked()];
    writeDurably(this.#path, `${JSON.stringify({ policy, known, revoked }, undefined, 1)}\n`);
  }
}
