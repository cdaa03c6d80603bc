/** What orchestrator and agent say to one another about cells with a terminal; a part of METHODS in protocol.ts. */
import { z } from 'zod';
import { id } from './fields.ts';

const CELLS_MAX = 32_767;
/** Keys that are typed on behalf of somebody at once. */
const TYPED_BYTES_MAX = 1024 * 1024;
/** A key with Ctrl, as tmux(1) writes it, or none. */
export const escapeSchema = z.string().regex(/^(C-[a-z\\\]^_]|none)$/);
/** `state` waits for so long at most before it says that the cell is still under way. */
const STATE_WAIT_MS_MAX = 20_000;

export const sizeSchema = z.object({
  columns: z.int().min(1).max(CELLS_MAX),
  rows: z.int().min(1).max(CELLS_MAX),
});
export type Size = z.infer<typeof sizeSchema>;

/** A cell whose program runs in a terminal of the cell's own. */
export const terminalSchema = z.object({
  /** The key that, with d after it, leaves the terminal. */
  escape: escapeSchema,
});
export type Terminal = z.infer<typeof terminalSchema>;

/** Where a cell has gone, as the mover named the host. */
export const destinationSchema = z.object({ name: z.string().max(256), hostname: z.string().max(256) });
export type Destination = z.infer<typeof destinationSchema>;

const named = { cell: id, name: z.string().max(64) };

/**
 * `here`: it runs here. `leaving`: it is on its way, or will go on here. `gone`: it runs at `to`. `stored`: it is in a file.
 * `ended`: its program has ended, with this status (128 + N: by signal N) and this on its screen. `unknown`: no cell of this host.
 */
const terminalStateSchema = z.discriminatedUnion('state', [
  z.object({ state: z.literal('here'), ...named, terminal: terminalSchema.optional() }),
  z.object({ state: z.literal('leaving'), ...named }),
  z.object({ state: z.literal('gone'), ...named, to: destinationSchema.optional() }),
  z.object({ state: z.literal('stored'), ...named }),
  z.object({ state: z.literal('ended'), ...named, status: z.int(), screen: z.string() }),
  z.object({ state: z.literal('unknown') }),
]);
export type TerminalState = z.infer<typeof terminalStateSchema>;

const attachment = { cell: id, attachment: id };

export const TERMINAL_METHODS = {
  /** `target`: name or id. With `wait_ms`, while it is leaving the answer waits for what becomes of it. */
  'terminal.state': {
    params: z.object({
      target: z.string().max(64),
      wait_ms: z.int().min(0).max(STATE_WAIT_MS_MAX).optional(),
    }),
    result: terminalStateSchema,
  },
  /** Answers when the cell is about to leave: whoever called lets go of its terminal then, and says `terminal.left`. */
  'terminal.attach': { params: z.object(attachment), result: z.object({}) },
  /** `forced`: its time was up, and it was taken off: keys that it had passed on may not have arrived. */
  'terminal.left': { params: z.object(attachment), result: z.object({ forced: z.boolean() }) },
  /** Types what was typed while the cell was under way. */
  'terminal.type': {
    params: z.object({
      cell: id,
      keys: z.custom<Uint8Array>(
        (value) => value instanceof Uint8Array && value.length <= TYPED_BYTES_MAX,
        'must be keys',
      ),
    }),
    result: z.object({}),
  },
} as const satisfies Record<string, { params: z.ZodType; result: z.ZodType }>;
