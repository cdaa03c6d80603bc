import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  inetSockets,
  type OtherKind,
  parseHexEndpoint,
  parseInetTable,
  parseInodes,
  socketReader,
  udpSockets,
} from './sockets.ts';

const TCP = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     
   0: 00000000:1B58 00000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 1678 1 00000000c3b9e1ee 100 0 0 10 0                      
   1: 01004D0A:ADC6 02024D0A:0016 06 00000000:00000000 03:000012B4 00000000     0        0 0 3 00000000a65317ec                                      
  10: 0100007F:9C40 0100007F:1B58 01 0000000A:00000100 01:00000014 00000000  1000        0 259304 2 000000007d4bd6b1 20 4 30 10 -1
`;
const TCP6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3001 1 0000000000000000 100 0 0 10 0
   1: 0000000000000000FFFF000002014D0A:1F90 0000000000000000FFFF000002044D0A:C738 08 00000000:00000000 00:00000000 00000000     0        0 3002 1 0000000000000000 20 4 30 10 -1
   2: B80D0120000000000000000001000000:01BB B80D0120000000000000000002000000:8000 04 00000000:00000000 00:00000000 00000000     0        0 3003 1 0000000000000000 20 4 30 10 -1
`;

test('listening, waiting and established sockets of /proc/net/tcp', () => {
  const [listening, waiting, established, ...none] = parseInetTable(TCP, 'tcp', 4);
  expect(none).toEqual([]);
  expect(listening).toEqual({
    protocol: 'tcp',
    family: 4,
    local: { address: '0.0.0.0', port: 7000 },
    remote: { address: '0.0.0.0', port: 0 },
    state: 'listen',
    sendQueue: 0,
    receiveQueue: 3,
    inode: 1678,
  });
  expect(waiting).toMatchObject({ state: 'time-wait', inode: 0, remote: { address: '10.77.2.2', port: 22 } });
  expect(established).toMatchObject({
    local: { address: '127.0.0.1', port: 40_000 },
    state: 'established',
    sendQueue: 10,
    receiveQueue: 256,
    inode: 259_304,
  });
});

test('IPv6, and IPv4 as a dual-stack socket has it', () => {
  const [any, mapped, six] = parseInetTable(TCP6, 'tcp', 6);
  expect(any?.local).toEqual({ address: '::', port: 8080 });
  expect(mapped).toMatchObject({
    local: { address: '10.77.1.2', port: 8080 },
    remote: { address: '10.77.4.2', port: 51_000 },
    state: 'close-wait',
    inode: 3002,
  });
  expect(six).toMatchObject({
    local: { address: '2001:db8::1', port: 443 },
    remote: { address: '2001:db8::2', port: 32_768 },
    state: 'fin-wait-1',
  });
});

test('empty and cut tables hold nothing', () => {
  for (const text of ['', TCP.split('\n')[0] ?? '', '\n\n', 'head\n   0: 0000']) {
    expect(parseInetTable(text, 'tcp', 4)).toEqual([]);
  }
});

test('any IPv4 endpoint is read back from the form of the kernel', () => {
  fc.assert(
    fc.property(fc.ipV4(), fc.nat({ max: 65_535 }), (address, port) => {
      const hex = Buffer.from(address.split('.').map(Number).reverse()).toString('hex').toUpperCase();
      const text = `${hex}:${port.toString(16).padStart(4, '0')}`;
      expect(parseHexEndpoint(text)).toEqual({ address, port });
    }),
  );
});

/** Head and one row of each table as Linux 6.18 prints them; the inode is 4242 in every one. */
const INODE_TABLES: Partial<Record<OtherKind, string>> = {
  unix: `Num       RefCount Protocol Flags    Type St Inode Path
000000002ffefc48: 00000003 00000000 00000000 0001 03 4242 /var/run/some path/1 2 3.sock
`,
  netlink: `sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
00000000133be04f 4   1234567890 00000000 0        0        0     2        0        4242    
`,
  packet: `sk               RefCnt Type Proto  Iface R Rmem   User   Inode
00000000e7b03ea0 3      3    0003   0     1 0      0      4242  
`,
  raw: `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
   1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4242 2 00000000a65317ec 0
`,
};

test.each(Object.entries(INODE_TABLES) as [OtherKind, string][])('the inode in a row of %s', (kind, text) => {
  expect(parseInodes(text, kind)).toEqual([4242]);
});

test.each(Object.entries(INODE_TABLES) as [OtherKind, string][])(
  'the head of %s names that column',
  (_kind, text) => {
    const [head = '', row = ''] = text.split('\n');
    const words = head
      .trim()
      .replace('tx_queue rx_queue', 'queues')
      .replace('tr tm->when', 'timer')
      .split(/\s+/);
    const column = words.findIndex((word) => word.toLowerCase() === 'inode');
    expect(row.trim().split(/\s+/)[column]).toBe('4242');
  },
);

test('the tables of this process are read, TCP alone too', () => {
  const all = inetSockets('self');
  expect(udpSockets('self').every(({ protocol }) => protocol === 'tcp')).toBe(true);
  expect(all.every(({ local }) => local.port >= 0 && local.port <= 65_535)).toBe(true);
  expect(inetSockets(2 ** 30)).toEqual([]);
});

test('a reader reads a network namespace once, whoever of it is asked for', () => {
  const read = socketReader();
  const sockets = read('self');
  expect(read(process.pid)).toBe(sockets);
  expect(socketReader()('self')).not.toBe(sockets);
});
