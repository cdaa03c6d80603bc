import { expect, test } from 'vitest';
import { connectedOutside, parseUnixSockets, sorted } from './unix.ts';

/** As ss(8) of iproute2 6.15 prints it. */
const TEXT = `u_dgr ESTAB  0      0                            * 7001364 * 7001363
u_str LISTEN 0      511    /run/osmosis/agent.sock 6902077 * 0      
u_str ESTAB  0      0                            * 7001359 * 7001360
u_dgr ESTAB  0      0                      /tmp/a b 7001363 * 0      users:(("my server",pid=12,fd=7),("x",pid=13,fd=7))
u_str ESTAB  0      0                            * 7001360 * 7001359 users:(("python3",pid=4,fd=3))
u_str LISTEN 1      128                  @abstract 7001361 * 0      
`;

test('paths, inodes, peers, and who has them', () => {
  const sockets = parseUnixSockets(TEXT);
  expect(sockets.map(({ inode, peer }) => [inode, peer])).toEqual([
    [7001364, 7001363],
    [6902077, 0],
    [7001359, 7001360],
    [7001363, 0],
    [7001360, 7001359],
    [7001361, 0],
  ]);
  expect(sockets.map(({ path }) => path)).toEqual([
    '*',
    '/run/osmosis/agent.sock',
    '*',
    '/tmp/a b',
    '*',
    '@abstract',
  ]);
  expect(sockets[3]?.holder).toBe('my server (pid 12)');
  expect(sockets[4]?.holder).toBe('python3 (pid 4)');
  expect(sockets[0]?.holder).toBe(undefined);
});

test.each([
  [[7001359, 7001360], []],
  [[7001359], [7001359]],
  [[7001361, 7001363], []],
  [[7001364], [7001364]],
])('of a tree with %j those connected outside are %j', (own, expected) => {
  expect(connectedOutside(parseUnixSockets(TEXT), new Set(own)).map(({ inode }) => inode)).toEqual(expected);
});

test('standard streams are left behind, any other is in the way', () => {
  const at = (fd: number) => ({ pid: 7, fd, link: 'socket:[7001359]' });
  const sort = (...fds: number[]) => sorted(parseUnixSockets(TEXT), new Set([7001359]), fds.map(at));
  expect(sort(1, 2)).toEqual({
    checks: [],
    outside: [
      {
        resource: 'socket:[7001359]',
        external: true,
        what: 'a unix socket (pid 7 fd 1, pid 7 fd 2) to python3 (pid 4)',
      },
    ],
  });
  const { checks, outside } = sort(1, 3);
  expect(outside).toEqual([]);
  expect(checks).toEqual([
    {
      name: 'sockets',
      ok: false,
      message: expect.stringContaining('a unix socket connected to python3 (pid 4), outside'),
    },
  ]);
});
