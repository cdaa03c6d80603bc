import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { giveTimeoutsBack } from '../datapath/socket-timeouts.ts';
import { temporaryDirectory } from '../test-support.ts';
import { HeldSockets } from './held-sockets.ts';
import { PeerRecords } from './peer-records.ts';

vi.mock('../datapath/socket-timeouts.ts', () => ({ giveTimeoutsBack: vi.fn(), liftTimeouts: vi.fn() }));

beforeEach(() => void vi.useFakeTimers({ toFake: ['Date'] }));
afterEach(() => void vi.useRealTimers());

test('a limit that is slow to be given back is given back once, as it was', async () => {
  const records = new PeerRecords(temporaryDirectory());
  const record = records.create('c0'.repeat(16), undefined);
  if (record === undefined) throw new Error('no record');
  const [local, remote] = [
    { address: '10.77.4.2', port: 51_000 },
    { address: '10.77.1.2', port: 7000 },
  ];
  const wireRemote = [{ endpoint: remote, ifindex: 2 }, undefined] as const;
  const id = { protocol: 'tcp', local, remote, scope: 0 } as const;
  records.take(record, { id, wireRemote, missing: 0, userTimeout: 5_000 });
  const views = () => [{ pid: 'self', scope: 0 }] as const;
  const datapath = { attachHeld: async () => {} };
  const sockets = new HeldSockets({ datapath, records, views, log: { warn: vi.fn() } });
  const { promise, resolve } = Promise.withResolvers<void>();
  vi.mocked(giveTimeoutsBack).mockReturnValueOnce(promise);
  for (let sweeps = 0; sweeps < 8; sweeps++) {
    sockets.sweep();
    vi.setSystemTime(Date.now() + 2_000);
  }
  resolve();
  await sockets.idle();
  expect(vi.mocked(giveTimeoutsBack).mock.calls).toEqual([['self', [{ local, remote, wasMs: 5_000 }]]]);
});
