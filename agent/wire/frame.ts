/**
 * Frames of the control channel between orchestrator and agent, over any byte stream.
 *
 *   4b: length of what follows, big-endian, 1..FRAME_BYTES_MAX
 *   1b: kind
 *   rest: body; CBOR for messages, raw bytes for `data`
 *
 * Protocol flow:
 *   orchestrator → agent: request {id, method, params}; cancel {id}
 *   agent → orchestrator: event {id, event}*, then one response {id, result | error}
 *   an image channel additionally carries data* and one end in the direction of the image.
 */
import { decode as decodeCbor, encode as encodeCbor } from 'cborg';

/** 32 MiB: the 65,536 flows that a datapath holds at most fit, with all that `osmosis datapath` shows of each. */
export const FRAME_BYTES_MAX = 32 * 1024 * 1024;
const HEADER_BYTES = 4;

export const FRAME_KINDS = { request: 1, response: 2, event: 3, cancel: 4, data: 5, end: 6 } as const;
export type FrameKind = keyof typeof FRAME_KINDS;
export type Frame = { readonly kind: FrameKind; readonly body: Uint8Array };

const KIND_NAMES = new Map<number, FrameKind>(
  (Object.keys(FRAME_KINDS) as FrameKind[]).map((name) => [FRAME_KINDS[name], name]),
);

/** A frame was malformed: the stream can't be trusted from here on. */
export class FrameError extends Error {
  override readonly name = 'FrameError';
}

export function encodeFrame(kind: FrameKind, body: Uint8Array): Buffer {
  const length = body.length + 1;
  if (length > FRAME_BYTES_MAX) throw new FrameError(`frame of ${length} bytes, at most ${FRAME_BYTES_MAX}`);
  const frame = Buffer.allocUnsafe(HEADER_BYTES + length);
  frame.writeUInt32BE(length, 0);
  frame.writeUInt8(FRAME_KINDS[kind], HEADER_BYTES);
  frame.set(body, HEADER_BYTES + 1);
  return frame;
}

/** `undefined` members of objects are left out; in arrays, where places count, they stay. */
export function encodeMessage(kind: FrameKind, message: unknown): Buffer {
  return encodeFrame(kind, encodeCbor(message, { ignoreUndefinedProperties: true }));
}

/** @throws FrameError where the body is not one well-formed CBOR item. */
export function decodeMessage(frame: Frame): unknown {
  try {
    return decodeCbor(frame.body);
  } catch (cause) {
    throw new FrameError(`a ${frame.kind} frame does not hold CBOR`, { cause });
  }
}

/** Collects bytes as they come and yields whole frames. Holds one incomplete frame at most. */
export class FrameDecoder {
  #chunks: Buffer[] = [];
  #held = 0;

  /** @throws FrameError on a length or kind that no frame has. */
  *push(chunk: Buffer): Generator<Frame> {
    this.#chunks.push(chunk);
    this.#held += chunk.length;
    while (this.#held >= HEADER_BYTES) {
      const length = this.#peekLength();
      if (length < 1 || length > FRAME_BYTES_MAX) throw new FrameError(`frame length ${length}`);
      if (this.#held < HEADER_BYTES + length) return;
      const whole = this.#take(HEADER_BYTES + length);
      const kind = KIND_NAMES.get(whole.readUInt8(HEADER_BYTES));
      if (kind === undefined) throw new FrameError(`frame kind ${whole.readUInt8(HEADER_BYTES)}`);
      yield { kind, body: whole.subarray(HEADER_BYTES + 1) };
    }
  }

  /** True when the stream may end here without a frame being cut in two. */
  get isEmpty(): boolean {
    return this.#held === 0;
  }

  #peekLength(): number {
    const first = this.#chunks[0];
    if (first !== undefined && first.length >= HEADER_BYTES) return first.readUInt32BE(0);
    this.#chunks = [Buffer.concat(this.#chunks)];
    return this.#chunks[0]?.readUInt32BE(0) ?? 0;
  }

  #take(count: number): Buffer {
    const first = this.#chunks[0];
    const all = first !== undefined && first.length >= count ? first : Buffer.concat(this.#chunks);
    const rest = all === first ? this.#chunks.slice(1) : [];
    this.#chunks = all.length > count ? [all.subarray(count), ...rest] : rest;
    this.#held -= count;
    return all.subarray(0, count);
  }
}
