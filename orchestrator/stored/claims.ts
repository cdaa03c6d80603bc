/** Epochs of a resumption's HOLD and MOVE. Pure. */
import { randomInt } from 'node:crypto';

/** Epochs that one attempt draws its own from. */
const STRIDE = 256;
/** Those that it has: of its HOLD, of the ARM after it, and of the MOVE, or the BYE. */
const EPOCHS = 3;
/** The MOVE's, above that of the HOLD. */
export const MOVE_ABOVE_HOLD = EPOCHS - 1;

/**
 * How far the epoch of an attempt's HOLD is above that of the suspension; the next one is its ARM's, the one after that its MOVE's. Each attempt is above
 * those before it. Two copies of a file know nothing of each other's: that they have not the same is left to chance, since
 * a MOVE's nonce must not be used twice, and the peers take the higher one.
 * @param attempts begun before this one
 */
export function claimAbove(attempts: number, draw: (max: number) => number = randomInt): number {
  return attempts * STRIDE + EPOCHS * draw(Math.floor((STRIDE - 1) / EPOCHS)) + 1;
}
