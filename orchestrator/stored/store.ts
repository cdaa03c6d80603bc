/** The image of a cell on its way from its host into a file. */
import type { AgentClient, CallOptions } from '../agent-client.ts';
import type { MigrationEvent } from '../events.ts';
import type { ImageFileWriter } from './writer.ts';

const PROGRESS_MS = 100;

/** Settles when all pieces are written. @returns what closes the stream. */
export async function storeImage(
  migration: string,
  source: AgentClient,
  writer: ImageFileWriter,
  emit: (event: MigrationEvent) => void,
  options: CallOptions,
): Promise<Uint8Array> {
  const started = performance.now();
  let reportedAt = started;
  let end: Uint8Array = new Uint8Array();
  let written: Promise<unknown> = Promise.resolve();
  source.receiveImage(async ({ kind, body }) => {
    if (kind === 'end') end = body.slice();
    if (kind !== 'data') return;
    const writing = writer.piece(body);
    written = Promise.all([written, writing]);
    // What fails ends the stream, and with it the call that is awaited first.
    written.catch(() => undefined);
    const now = performance.now();
    if (now - reportedAt >= PROGRESS_MS) {
      reportedAt = now;
      const bytes_per_s = Math.round((writer.bytes * 1_000) / Math.max(now - started, 1));
      emit({ event: 'progress', bytes: writer.bytes, bytes_per_s });
    }
    await writing;
  });
  await source.call('image.read', { migration }, options);
  await written;
  return end;
}
