/** The hosts that commands know by name. */
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { messageOf, OsmosisError } from '../../agent/error.ts';
import { parseTarget, type Target } from '../ssh/target.ts';
import type { FleetFile } from './schema.ts';

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
    // With the parser, which most commands do without.
    if (text !== undefined) return (await import('./parse.ts')).parseFleet(text, file);
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

export function fleetError(file: string, what: string, cause?: unknown): OsmosisError {
  return new OsmosisError(
    'FLEET_FILE',
    `the fleet file ${file} can't be used: ${what}. Nothing was touched.`,
    {
      cause,
    },
  );
}
