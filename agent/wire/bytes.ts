/** Reading and writing big-endian fields. A reader never throws: what runs past the end is remembered, and reads as zeros. */

export type ByteReader = {
  take(length: number): Uint8Array;
  u8(): number;
  u16(): number;
  u32(): number;
  /** Everything not read yet. */
  rest(): Uint8Array;
  remaining(): number;
  /** True once a field was asked for that the bytes don't hold. */
  overrun(): boolean;
};

export function byteReader(bytes: Uint8Array): ByteReader {
  let at = 0;
  let overrun = false;
  const take = (length: number): Uint8Array => {
    const field = new Uint8Array(length);
    if (at + length > bytes.length) {
      overrun = true;
      at = bytes.length;
      return field;
    }
    // A copy: the datagram's buffer belongs to the socket, and what was decoded may be kept.
    field.set(bytes.subarray(at, at + length));
    at += length;
    return field;
  };
  const uint = (length: number) => {
    if (at + length > bytes.length) {
      overrun = true;
      at = bytes.length;
      return 0;
    }
    let value = 0;
    for (let left = length; left > 0; left--) value = value * 256 + (bytes[at++] ?? 0);
    return value;
  };
  return {
    take,
    u8: () => uint(1),
    u16: () => uint(2),
    u32: () => uint(4),
    rest: () => take(bytes.length - at),
    remaining: () => bytes.length - at,
    overrun: () => overrun,
  };
}

export function u8(value: number): Uint8Array {
  return uintBytes(value, 1);
}

export function u16(value: number): Uint8Array {
  return uintBytes(value, 2);
}

export function u32(value: number): Uint8Array {
  return uintBytes(value, 4);
}

function uintBytes(value: number, length: number): Uint8Array {
  if (!Number.isInteger(value) || value < 0 || value >= 256 ** length) {
    throw new RangeError(`${value} is not an unsigned integer of ${length} bytes`);
  }
  return Uint8Array.from({ length }, (_, index) => Math.floor(value / 256 ** (length - 1 - index)) % 256);
}

export function concatBytes(...fields: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(fields.reduce((sum, field) => sum + field.length, 0));
  let at = 0;
  for (const field of fields) {
    bytes.set(field, at);
    at += field.length;
  }
  return bytes;
}

/** For public values only: not constant-time. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}
