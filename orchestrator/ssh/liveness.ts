/** Notices within LIVENESS_MS_MAX that a host is gone, even where nothing closes the connection. */
import type { Duplex } from 'node:stream';

const TICK_MS = 5_000;
const SILENT_TICKS_MAX = 2;
/** The longest that a dead host goes unnoticed: silence may begin right after a tick. */
export const LIVENESS_MS_MAX = (SILENT_TICKS_MAX + 1) * TICK_MS;

/**
 * Makes ssh2 ask for a sign of life every TICK_MS, but never judge the answers: its requests queue behind the data
 * that is being sent, so on a slow line it would give up on a host that is busy receiving. Any byte counts here.
 */
export const PINGS = { keepaliveInterval: TICK_MS, keepaliveCountMax: Number.MAX_SAFE_INTEGER } as const;

/**
 * Call it once the stream has its reader (a first reader would start the flow). Ticks are counted, not time: a process
 * that was itself stopped for a while must not blame the host.
 * @returns stops watching
 */
export function watchLiveness(stream: Duplex, onDead: () => void): () => void {
  let isHeard = true;
  let silentTicks = 0;
  const onData = () => {
    isHeard = true;
  };
  stream.on('data', onData);
  const timer = setInterval(() => {
    silentTicks = isHeard ? 0 : silentTicks + 1;
    isHeard = false;
    if (silentTicks >= SILENT_TICKS_MAX) onDead();
  }, TICK_MS);
  return () => {
    clearInterval(timer);
    stream.off('data', onData);
  };
}
