/** The image on its way: source → orchestrator → destination, piece by piece, never more held than the two streams hold. */
import type { AgentClient, CallOptions } from './agent-client.ts';
import type { MigrationEvent } from './events.ts';

const PROGRESS_MS = 100;

/** Settles when the destination has all of it and its checksum agrees. @returns bytes of the image. */
export async function relayImage(
  migration: string,
  source: AgentClient,
  destination: AgentClient,
  emit: (event: MigrationEvent) => void,
  options: CallOptions,
): Promise<number> {
  const started = performance.now();
  let bytes = 0;
  let reportedAt = started;
  source.receiveImage(async ({ kind, body }) => {
    if (kind !== 'data' && kind !== 'end') return;
    if (kind === 'data') bytes += body.length;
    const now = performance.now();
    if (now - reportedAt >= PROGRESS_MS || kind === 'end') {
      reportedAt = now;
      emit({
        event: 'progress',
        bytes,
        bytes_per_s: Math.round((bytes * 1000) / Math.max(now - started, 1)),
      });
    }
    await destination.sendImage(kind, body);
  });
  const [written] = await Promise.all([
    destination.call('image.write', { migration }, options),
    source.call('image.read', { migration }, options),
  ]);
  return written.bytes;
}
