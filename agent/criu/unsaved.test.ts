import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { InetSocket } from '../proc/sockets.ts';
import { temporaryDirectory } from '../test-support.ts';
import { cutShort, savedBytes } from './unsaved.ts';

/** As CRIU 4.2 wrote it for a socket with `abc`, an urgent byte and `defgh` in its queue. */
const IMAGE = Buffer.from('194356540655465104000000080310f76162 63'.replaceAll(' ', ''), 'hex');

const socket = (receiveQueue: number, state: InetSocket['state'] = 'established', inode = 0x522a78) =>
  ({ protocol: 'tcp', state, inode, receiveQueue }) as InetSocket;

test.each([
  ['0800', 0],
  ['0803', 3],
  ['08ff7f', 16_383],
  ['0880808001', 2_097_152],
  ['08ff', Number.NaN],
  ['1001', Number.NaN],
  ['', Number.NaN],
])('the length in %s', (hex, bytes) => {
  expect(savedBytes(Buffer.from(`00`.repeat(12) + hex, 'hex'))).toBe(bytes);
});

test('a queue of which the image has only the part before urgent data', () => {
  const directory = temporaryDirectory();
  writeFileSync(join(directory, 'tcp-stream-522a78.img'), IMAGE);
  expect(cutShort(directory, [socket(3), socket(0), socket(9, 'listen'), socket(9, 'established', 7)])).toBe(
    undefined,
  );
  expect(cutShort(directory, [socket(3), socket(9)])).toEqual(socket(9));
  expect(cutShort(directory, [socket(4)])).toEqual(socket(4));
  // The FIN counts.
  expect(cutShort(directory, [socket(4, 'close-wait')])).toBe(undefined);
  expect(cutShort(directory, [socket(5, 'close-wait')])).toEqual(socket(5, 'close-wait'));
});
