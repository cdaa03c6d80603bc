/** A stored cell is given up: its peers are told, and end their connections with it; its file can't be resumed any more. */
import type { PeerSession } from '../agent/control/protocol.ts';
import { asOsmosisError, OsmosisError } from '../agent/error.ts';
import { heldBy } from './claim.ts';
import { checkDecided, type Held, marker } from './resumable.ts';
import { MOVE_ABOVE_HOLD } from './stored/claims.ts';

export type DiscardResult = {
  readonly ok: true;
  readonly cell: string;
  readonly file: string;
  /** Peers that have ended their connections with it. */
  readonly told: readonly string[];
  /** Peers that did not wait for it: it has run elsewhere since, or they were restarted, or have been told before. */
  readonly gone: readonly string[];
  /** Peers that have not acknowledged. */
  readonly unconfirmed: readonly string[];
};

/** @throws OsmosisError IMAGE_USED, IMAGE_STALE (the cell runs on this very host), IMAGE_FILE */
export async function discard(options: Held): Promise<DiscardResult> {
  const { reader, image, host, signal } = options;
  const { state } = reader;
  const { snapshot } = image.metadata;
  if (state.state === 'resumed')
    throw new OsmosisError(
      'IMAGE_USED',
      `${reader.path} was resumed ${new Date(state.at).toISOString()} on ${state.host}: there is nothing to be given up. Remove the file`,
      { owner: 'destination' },
    );
  await checkDecided(options, signal);
  const mark = marker(reader, host.control.host);
  const { answers, sessions } = await heldBy(options, mark, () => true);
  const peers = (wanted: string) =>
    sessions.map(({ peer }) => peer).filter((peer) => answers.get(peer) === wanted);
  // From here on nobody may resume it: what its peers hear can't be taken back.
  await mark('discarded');
  const told = sessions.filter(({ peer }) => answers.get(peer) !== 'other').map(farewell);
  const { silent } = await host.control
    .call('resume.discard', { cell: snapshot.cell, sessions: told })
    .catch((thrown: unknown) => {
      throw incomplete(thrown, reader.path);
    });
  return {
    ok: true,
    cell: snapshot.name,
    file: reader.path,
    told: told.map(({ peer }) => peer).filter((peer) => !silent.includes(peer)),
    gone: peers('other'),
    unconfirmed: silent,
  };
}

function incomplete(thrown: unknown, path: string): OsmosisError {
  const { code, message } = asOsmosisError(thrown);
  return new OsmosisError(
    code,
    `${message.replace(/\.$/, '')}. ${path} is given up, but its peers may not know yet: osmosis discard once more tells them.`,
    { owner: 'file', cause: thrown },
  );
}

function farewell(session: PeerSession): PeerSession {
  return { ...session, epoch: session.epoch + MOVE_ABOVE_HOLD };
}
