import { expect, test } from 'vitest';
import { OsmosisError } from '../../agent/error.ts';
import { fakeHosts } from '../fake-agent.ts';
import type { HostConnection } from '../ssh/host.ts';
import { firstModel } from '../tui/model.ts';
import { poll } from './tui-poll.ts';

test('a host without an agent does not get a connection more with every question', async () => {
  const end = new AbortController();
  const open = new Set<HostConnection>();
  let asked = 0;
  const agent = fakeHosts({
    status: () => Promise.reject(new OsmosisError('AGENT_UNREACHABLE', 'no agent on alpha')),
    traffic: () => Promise.reject(new OsmosisError('AGENT_UNREACHABLE', 'no agent on alpha')),
  }).source.control;
  const hosts = {
    connect: async () => {
      const connection = { name: 'alpha' } as HostConnection;
      open.add(connection);
      return connection;
    },
    agent: async () => agent,
    release: async (connection: HostConnection) => void open.delete(connection),
  };
  const tell = () => {
    asked += 1;
    setImmediate(() => end.abort());
  };
  await poll('alpha', { hosts, model: () => firstModel(['alpha']), tell }, end.signal);
  expect([asked, open.size]).toEqual([1, 0]);
});
