/** Reads a fleet file. */
import { parseDocument } from 'yaml';
import { messageOf } from '../../agent/error.ts';
import { parseTarget, type Target } from '../ssh/target.ts';
import { type Fleet, fleetError } from './fleet.ts';
import { fleetSchema } from './schema.ts';

/** A fleet file is larger than this by mistake only. */
const FILE_BYTES_MAX = 1024 * 1024;
/** Complaints that are shown of a wrong file. */
const COMPLAINTS_MAX = 5;

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
