/** The hosts that commands know by name. */
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { parseDocument } from 'yaml';
import { messageOf, OsmosisError } from '../../agent/error.ts';
import { parseTarget, type Target } from '../ssh/target.ts';
import { type FleetFile, fleetSchema } from './schema.ts';

/** A fleet file is larger than this by mistake only. */
const FILE_BYTES_MAX = 1024 * 1024;
/** Complaints that are shown of a wrong file. */
const COMPLAINTS_MAX = 5;

export type FleetHost = {
  readonly name: string;
  readonly target: Target;
  readonly labels: Readonly<Record<string, string>>;
};
export type Fleet = {
  /** Where it was read; undefined: there is none. */
  readonly file: string | undefined;
  readonly hosts: readonly FleetHost[];
  readonly drain: NonNullable<NonNullable<FleetFile['defaults']>['drain']>;
};

export const NO_FLEET: Fleet = { file: undefined, hosts: [], drain: {} };

/**
 * `named` must be there; without it the first of osmosis.yaml here, ~/.config/osmosis/fleet.yaml and
 * /etc/osmosis/fleet.yaml, or none.
 * @throws OsmosisError FLEET_FILE
 */
export async function loadFleet(named: string | undefined): Promise<Fleet> {
  for (const file of named === undefined ? usualFiles() : [named]) {
    const text = await readText(file, named !== undefined);
    if (text !== undefined) return parseFleet(text, file);
  }
  return NO_FLEET;
}

function usualFiles(): string[] {
  const config = process.env.XDG_CONFIG_HOME || join(homedir(), '.config');
  return ['osmosis.yaml', join(config, 'osmosis/fleet.yaml'), '/etc/osmosis/fleet.yaml'];
}

async function readText(file: string, mustExist: boolean): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (thrown) {
    const isMissing = (thrown as NodeJS.ErrnoException).code === 'ENOENT';
    if (isMissing && !mustExist) return undefined;
    throw fleetError(file, messageOf(thrown), thrown);
  }
}

/** @throws OsmosisError FLEET_FILE with every complaint and its place */
export function parseFleet(text: string, file: string): Fleet {
  if (text.length > FILE_BYTES_MAX) throw fleetError(file, `larger than ${FILE_BYTES_MAX} bytes`);
  const document = parseDocument(text, { prettyErrors: true });
  const [broken] = document.errors;
  if (broken !== undefined) throw fleetError(file, broken.message, broken);
  let value: unknown;
  try {
    value = document.toJS();
  } catch (thrown) {
    throw fleetError(file, messageOf(thrown), thrown);
  }
  const parsed = fleetSchema.safeParse(value);
  if (!parsed.success) {
    const all = parsed.error.issues.map(({ path, message }) => `${path.join('.') || 'the file'}: ${message}`);
    const more = all.length > COMPLAINTS_MAX ? ` and ${all.length - COMPLAINTS_MAX} more` : '';
    throw fleetError(file, `${all.slice(0, COMPLAINTS_MAX).join('; ')}${more}`);
  }
  const { hosts, defaults } = parsed.data;
  return {
    file,
    hosts: Object.entries(hosts).map(([name, host]) => ({
      name,
      target: targetOf(name, host?.ssh, file),
      labels: host?.labels ?? {},
    })),
    drain: defaults?.drain ?? {},
  };
}

function targetOf(name: string, ssh: string | undefined, file: string): Target {
  try {
    return parseTarget(ssh ?? `ssh://${name}`);
  } catch (thrown) {
    throw fleetError(file, `hosts.${name}.ssh: ${messageOf(thrown)}`, thrown);
  }
}

/** A name of the fleet, `local`, or an ssh:// URL. @throws OsmosisError USAGE */
export function findHost(fleet: Fleet, text: string): { readonly name?: string; readonly target: Target } {
  const found = fleet.hosts.find(({ name }) => name === text);
  if (found !== undefined) return found;
  if (text === 'local' || text.includes('/')) return { target: parseTarget(text) };
  const where =
    fleet.file === undefined
      ? 'there is no fleet file that could name it'
      : `${fleet.file} names ${fleet.hosts.map(({ name }) => name).join(', ') || 'no hosts'}`;
  throw new OsmosisError(
    'USAGE',
    `not a host: ${JSON.stringify(text)}; ${where}. Write ssh://[user@]host[:port], or local for this machine`,
  );
}

function fleetError(file: string, what: string, cause?: unknown): OsmosisError {
  return new OsmosisError(
    'FLEET_FILE',
    `the fleet file ${file} can't be used: ${what}. Nothing was touched.`,
    {
      cause,
    },
  );
}
