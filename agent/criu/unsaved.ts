/** What CRIU leaves out of an image without a word. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { InetSocket } from '../proc/sockets.ts';

/** Two magic numbers and the length of the message that follows (criu/image-desc.c, protobuf of images/tcp-stream.proto). */
const IMAGE_HEAD_BYTES = 12;
/** Field 1, a varint: inq_len, the first one that CRIU writes. */
const INQ_LEN_TAG = 0x08;
/** The peer has ended its direction: its FIN counts as one in the kernel's receive queue. */
const AFTER_FIN: ReadonlySet<InetSocket['state']> = new Set(['close-wait', 'closing', 'last-ack', 'close']);

/**
 * The first of `sockets` of whose unread bytes only a part is in the image: up to TCP urgent data that the process has not
 * passed yet. SIOCINQ, which CRIU asks, ends there (net/ipv4/tcp.c, tcp_inq), and CRIU drops the rest with exit status 0.
 * The queues must be those of the frozen process. Sockets without an image file in `directory` are other processes'.
 */
export function cutShort(directory: string, sockets: readonly InetSocket[]): InetSocket | undefined {
  return sockets.find(({ protocol, state, inode, receiveQueue }) => {
    if (protocol !== 'tcp' || state === 'listen' || inode === 0) return false;
    const unread = receiveQueue - (AFTER_FIN.has(state) ? 1 : 0);
    if (unread <= 0) return false;
    const file = join(directory, `tcp-stream-${inode.toString(16)}.img`);
    return existsSync(file) && savedBytes(readFileSync(file)) < unread;
  });
}

/** Bytes of a receive queue that a tcp-stream image holds; NaN where it is no such image. */
export function savedBytes(image: Uint8Array): number {
  if (image[IMAGE_HEAD_BYTES] !== INQ_LEN_TAG) return Number.NaN;
  let value = 0;
  for (let at = IMAGE_HEAD_BYTES + 1, scale = 1; ; at++, scale *= 128) {
    const byte = image[at];
    if (byte === undefined) return Number.NaN;
    value += (byte & 0x7f) * scale;
    if (byte < 0x80) return value;
  }
}
