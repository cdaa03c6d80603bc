/** Whoever reads what a command writes. */
import type { Writable } from 'node:stream';

const GONE = new Set(['EPIPE', 'EIO']);

/**
 * A reader that has seen enough (`osmosis ps | head`), or a terminal that was closed, is no failure. What has begun goes on to its
 * own end: a drain, say, whose log nobody takes any more.
 */
export function outliveReader(stream: Writable): void {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (!GONE.has(error.code ?? '')) throw error;
  });
}
