/** Files of a move, at one agent. */
import type { AgentContext } from '../context.ts';
import { imageSummarySchema } from '../control/protocol.ts';
import type { Call, Handlers } from '../control/server.ts';
import type { SYNC_METHODS } from '../control/sync-protocol.ts';
import { OsmosisError } from '../error.ts';
import { packPiece, unpackPiece } from '../wire/compression.ts';
import { decodeMessage } from '../wire/frame.ts';
import { ImageError, ImageTally, sameImage } from '../wire/image.ts';
import { checkTrees } from './paths.ts';
import { type PassResult, SyncSource } from './source.ts';

export function syncHandlers({
  registry,
  syncs,
}: Pick<AgentContext, 'registry' | 'syncs'>): Pick<Handlers, keyof typeof SYNC_METHODS> {
  return {
    'sync.list': async ({ sync, cell, paths }, { signal, gone }) => {
      checkTrees(paths);
      const source = new SyncSource(() => registry.get(cell)?.pid ?? noCell(), paths);
      syncs.beginSource(sync, source, gone);
      const { things, notes, problems } = await source.list(signal);
      return { facts: [...things.values()].map(({ fact }) => fact), notes, problems };
    },
    'sync.hash': async ({ sync, paths }, { signal }) => ({
      hashes: await syncs.source(sync).hashes(paths, signal),
    }),
    'sync.compare': async ({ sync, facts, trees }, { signal, gone }) =>
      await syncs.beginDestination(sync, gone).compare(facts, trees, signal),
    'sync.begin': async ({ sync, ...what }) => {
      syncs.destination(sync).begin(what);
      return {};
    },
    'sync.read': async ({ sync, same, leave, final }, call) => {
      const source = syncs.source(sync);
      source.begin(same, leave);
      const result: PassResult = { files: 0, bytes: 0, unsteady: [] };
      const tally = new ImageTally();
      for await (const piece of source.pass(final, result, call.signal)) {
        tally.add(piece, []);
        await call.sendData(packPiece(piece));
      }
      call.sendEnd(tally.finish());
      return result;
    },
    'sync.write': async ({ sync, final }, call) =>
      await syncs.destination(sync).write(piecesOf(call), final, call.signal),
    'sync.undo': async ({ sync }) => ({ left: await syncs.undo(sync) }),
  };
}

function noCell(): never {
  throw new OsmosisError('NO_SUCH_TARGET', 'the plan is too old: plan anew', { phase: 'plan' });
}

/** Up to the end frame, whose sum must agree. */
async function* piecesOf(call: Call): AsyncGenerator<Buffer> {
  const tally = new ImageTally();
  for await (const frame of call.frames()) {
    if (frame.kind === 'data') {
      const piece = unpacked(Buffer.from(frame.body));
      tally.add(piece, []);
      yield piece;
    } else if (sameImage(tally.finish(), imageSummarySchema.parse(decodeMessage(frame)))) return;
    else break;
  }
  throw new OsmosisError(
    'SYNC_FAILED',
    'the files were cut short or altered on their way; the process goes on at the source',
  );
}

function unpacked(body: Buffer): Buffer {
  try {
    return unpackPiece(body);
  } catch (cause) {
    if (!(cause instanceof ImageError)) throw cause;
    throw new OsmosisError(
      'SYNC_FAILED',
      `the files came damaged: ${cause.message}; the process goes on at the source`,
      {
        cause,
      },
    );
  }
}
