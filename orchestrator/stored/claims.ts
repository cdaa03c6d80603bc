/** Epochs of a resumption's HOLD and MOVE. Pure. */
import { randomInt } from 'node:crypto';

/** Epochs that one attempt has for itself. */
const STRIDE = 256;

/**
 * How far the epoch of an attempt's HOLD is above that of the suspension; the next one is its MOVE's. Each attempt is above
 * those before it. Two copies of a file know nothing of each other's: that they have not the same is left to chance, since
 * a MOVE's nonce must not be used twice, and the peers take the higher one.
 * @param attempts begun before this one
 */
export function claimAbove(attempts: number, draw: (max: number) => number = randomInt): number {
  return attempts * STRIDE + 2 * draw(STRIDE / 2 - 1) + 1;
}
