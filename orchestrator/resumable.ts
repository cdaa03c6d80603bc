/** Whether a stored cell may be resumed: what its file says, what the source has decided, what the host has. */
import type { PublishSpec } from '../agent/cell/publication.ts';
import type { Snapshot } from '../agent/control/protocol.ts';
import { OsmosisError } from '../agent/error.ts';
import type { Host } from './migrate.ts';
import { refuseFailed } from './plan.ts';
import type { ImageState } from './stored/format.ts';
import type { ImageFileReader, UnlockedImage } from './stored/reader.ts';
import { setState } from './stored/writer.ts';

export type Mark = (state: ImageState, attempts?: number) => Promise<void>;
/** A stored cell, and where its peers are asked from. */
export type Held = {
  readonly reader: ImageFileReader;
  readonly image: UnlockedImage;
  readonly host: Host;
  readonly signal: AbortSignal;
};

/** Writes down what has become of the file. An attempt is known by its number until the next one is. */
export function marker({ path, state }: ImageFileReader, host: string) {
  let { attempts } = state;
  return (next: ImageState, begun: number = attempts) => {
    attempts = begun;
    return setState(path, { state: next, attempts, host });
  };
}

type Asked = Pick<Held, 'image' | 'host'> & { readonly publish?: readonly PublishSpec[] | undefined };

/** @throws OsmosisError IMAGE_USED */
export function checkState({
  reader: { path, state },
  image,
  again,
}: Held & { readonly again: boolean }): void {
  const when = `${new Date(state.at).toISOString()} on ${state.host}`;
  if (state.state === 'resumed')
    throw new OsmosisError('IMAGE_USED', `${path} was resumed ${when}; an image can be resumed once`, {
      owner: 'destination',
    });
  if (state.state === 'discarded')
    throw new OsmosisError('IMAGE_USED', `${path} was given up ${when}; its peers wait for it no more`, {
      owner: 'file',
    });
  const asked = peersOf(image.metadata.snapshot).size > 0;
  if (state.state === 'resuming' && !asked && !again)
    throw new OsmosisError(
      'IMAGE_USED',
      `${path} was about to be resumed ${when}, and how that ended was not written down. See osmosis ps there; if the process is not there, --again`,
    );
}

/** @throws OsmosisError PREFLIGHT */
export async function checkHost({ image, host, publish = [] }: Asked, signal: AbortSignal): Promise<void> {
  refuseFailed((await hostChecks({ image, host, publish }, signal)).checks, 'resumed');
}

export async function hostChecks({ image, host, publish = [] }: Asked, signal: AbortSignal) {
  const { snapshot } = image.metadata;
  const params = { snapshot, ...(publish.length === 0 ? {} : { publish: [...publish] }) };
  return host.control.call('preflight', params, { signal });
}

/**
 * Its maker has not said so: the source's agent knows whether the process was given up for this file. Where it was not, the
 * file says so from then on: the agent has told what it knew.
 * @throws OsmosisError IMAGE_USED
 */
export async function checkDecided({ reader, image, host }: Held, signal: AbortSignal): Promise<void> {
  if (reader.state.state === 'void') throw neverOwned(reader.path);
  if (reader.state.state !== 'undecided') return;
  const { migration, source } = image.metadata;
  const { verdict } = await host.control.call('resume.verdict', { migration, source }, { signal });
  if (verdict === 'commit') return;
  if (verdict === 'abort') {
    await marker(reader, host.control.host)('void').catch(() => undefined);
    throw neverOwned(reader.path);
  }
  const { hostname } = reader.clear.host;
  throw new OsmosisError(
    'IMAGE_USED',
    `the cell in ${reader.path} may not own the process: its suspension was cut off, and the agent of ${hostname}, which knows, does not answer`,
    { owner: 'file' },
  );
}

function neverOwned(path: string): OsmosisError {
  return new OsmosisError(
    'IMAGE_USED',
    `the cell in ${path} was never suspended for good: the process went on at its host, or ended with that. Remove the file`,
    { owner: 'source' },
  );
}

export function peersOf({ flows }: Snapshot): Set<string> {
  return new Set(flows.map(({ at }) => at.address));
}
