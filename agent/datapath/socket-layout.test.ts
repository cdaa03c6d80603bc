import { expect, test } from 'vitest';
import { packKey, packOptions, parseOutcomes, parseRecords, RECORD_BYTES } from './socket-layout.ts';

const PAIR = {
  local: { address: '10.77.1.2', port: 7000 },
  remote: { address: 'fd77:0:0:4::2', port: 51_000 },
};
const OPTIONS = {
  congestion: 'cubic',
  values: { TCP_USER_TIMEOUT: 90_000, TCP_MAXSEG: 900, SO_MAX_PACING_RATE: 5e9, SO_TXREHASH: 1 },
};

/** struct socket_record of the C file. */
function record(lost: number): Buffer {
  const bytes = Buffer.alloc(RECORD_BYTES);
  bytes.writeBigUInt64LE(4711n, 0);
  packKey(PAIR).copy(bytes, 8);
  bytes.writeUInt32LE(lost, 44);
  bytes.writeUInt16LE(10, 48);
  bytes.writeUInt16LE(1, 50);
  bytes.writeUInt16LE(6, 52);
  bytes.writeUInt8(1, 54);
  packOptions(OPTIONS).copy(bytes, 56);
  bytes.write('tls', 104);
  bytes.writeUInt32LE(3, 120);
  return bytes;
}

test('a record, and what it says of options', () => {
  const [first, second, ...others] = parseRecords(
    Buffer.concat([record(0), record(1 | (1 << 22) | (1 << 24)), Buffer.alloc(5)]),
  );
  expect(others).toEqual([]);
  expect(first).toEqual({
    inode: 4711,
    ...PAIR,
    type: 1,
    protocol: 6,
    state: 1,
    options: OPTIONS,
    lost: [],
    refused: [],
    ulp: 'tls',
    device: 3,
  });
  expect(second).toMatchObject({ lost: ['TCP_DEFER_ACCEPT'], refused: ['TCP_MD5SIG', 'SO_ATTACH_BPF'] });
});

test('what could not be set, by name', () => {
  const failed = Buffer.alloc(4);
  failed.writeUInt32LE(0b11);
  expect(parseOutcomes(Buffer.concat([packKey(PAIR), failed]))).toEqual([
    { ...PAIR, failed: ['TCP_CONGESTION', 'TCP_USER_TIMEOUT'] },
  ]);
});

test('names of another version are left out', () => {
  expect(packOptions({ congestion: '', values: { SO_FUTURE: 1 } })).toEqual(Buffer.alloc(48));
});
