/** Whether this host takes cells: an operator who drains it cordons it first. Outlives the agent and the host. */
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { type CordonRecord, cordonSchema } from '../control/drain-protocol.ts';
import type { Check } from '../control/protocol.ts';
import { OsmosisError } from '../error.ts';

export class Cordon {
  readonly #path: string;
  #record: CordonRecord | undefined;

  /** A file that can't be read is a cordon all the same: whoever wrote it wanted one. */
  constructor(path: string) {
    this.#path = path;
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    this.#record = read(path);
  }

  get record(): CordonRecord | undefined {
    return this.#record;
  }

  set(record: CordonRecord): void {
    writeFileSync(`${this.#path}.new`, JSON.stringify(record), { mode: 0o600 });
    renameSync(`${this.#path}.new`, this.#path);
    this.#record = record;
  }

  clear(): void {
    rmSync(this.#path, { force: true });
    this.#record = undefined;
  }

  /** @throws OsmosisError HOST_CORDONED */
  refuse(hostname: string): void {
    const record = this.#record;
    if (record === undefined) return;
    throw new OsmosisError('HOST_CORDONED', `${cordonedText(hostname, record)}; nothing was touched.`, {
      phase: 'plan',
    });
  }

  /** Of a preflight. */
  checks(hostname: string): Check[] {
    const record = this.#record;
    return record === undefined
      ? []
      : [{ name: 'cordon', ok: false, message: cordonedText(hostname, record) }];
  }
}

function cordonedText(hostname: string, { since, reason }: CordonRecord): string {
  const why = reason === undefined ? '' : ` (${reason})`;
  return `${hostname} is cordoned since ${new Date(since).toISOString()}${why} and takes no cells: osmosis uncordon it, or choose another host`;
}

function read(path: string): CordonRecord | undefined {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
  try {
    return cordonSchema.parse(JSON.parse(text));
  } catch {
    return { since: 0, reason: `${path} can't be read` };
  }
}
