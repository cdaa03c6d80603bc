import { expect, test } from 'vitest';
import { flowWith, hostFactsWith, snapshotWith } from '../agent/test-support.ts';
import { type Answers, fakeHosts } from './fake-agent.ts';
import { checkPlan, type Legacy, makePlan, type Plan } from './plan.ts';

async function planWith(answers: Answers = {}, name?: string) {
  const { source, destination, calls } = fakeHosts(answers);
  const { plan, snapshot } = await makePlan('100', name, source.control, destination.control, {});
  return { plan, snapshot, calls };
}

function planOf(changes: Partial<Plan>): Plan {
  return {
    ...{
      cell: 'server',
      from: 'alpha',
      to: 'beta',
      processes: [],
      listeners: [],
      image_bytes_estimate: 1,
      home: true,
    },
    peers: [{ address: '10.77.4.2', agent: true, flows: 2, relayed: 0 }],
    checks: [{ name: 'kernel', ok: true, message: '6.18' }],
    ...changes,
  };
}

const legacy = { address: '10.77.5.2', agent: false, flows: 3, relayed: 0 };
const failed = { name: 'cpu', ok: false, message: 'lacks avx' };

test('a plan says what moves, and asks for it without touching anything', async () => {
  const outside = { resource: 'pipe:[7]', external: false, what: 'one end of a pipe (pid 100 fd 1)' };
  const { plan, calls } = await planWith({ inspect: async () => snapshotWith({ outside: [outside] }) });
  expect(plan).toEqual({
    cell: 'server',
    from: 'alpha',
    to: 'beta',
    processes: [{ pid: 100, command: 'server', resident_bytes: 4096 }],
    peers: [{ address: '10.77.4.2', agent: true, flows: 1, relayed: 0 }],
    home: true,
    listeners: ['tcp 10.77.1.2:7000'],
    image_bytes_estimate: 4096,
    checks: [{ name: 'descriptors', ok: true, message: expect.stringContaining('/dev/null') }],
  });
  expect(calls.toSorted()).toEqual(['inspect', 'preflight', 'survey']);
});

test('flows of UDP that their peers know are to move; how long they are learnt can be said', async () => {
  const [tcp, known, unknown] = [flowWith(1), flowWith(2), flowWith(3)];
  const udp = [known, unknown].map((flow) => ({ ...flow, protocol: 'udp' as const }));
  const asked: unknown[] = [];
  const { source, destination } = fakeHosts({
    inspect: async ({ learn_ms }, { timeoutMs }) => {
      asked.push(learn_ms, timeoutMs);
      return snapshotWith({ flows: [tcp, ...udp] });
    },
    survey: async () => ({ peers: [], unknown: udp.slice(1) }),
  });
  const options = { timeoutMs: 10, learnMs: 5_000 };
  const { datagrams } = await makePlan('100', undefined, source.control, destination.control, options);
  expect(datagrams).toEqual(udp.slice(0, 1));
  expect(asked).toEqual([5_000, 5_010]);
});

test('what would follow, and be published, is in it; at home nothing needs to follow', async () => {
  const [endpoint] = snapshotWith().listeners;
  const forwarding = {
    lease_s: 90,
    since: 1,
    endpoints: endpoint === undefined ? [] : [endpoint],
    homes: [{ address: '10.77.1.2', publicKey: new Uint8Array(32) }],
    followers: [],
  };
  const published = [
    {
      protocol: 'tcp' as const,
      wire: { address: '10.77.2.2', port: 80 },
      local: { address: '10.77.1.2', port: 7000 },
    },
  ];
  const asked: unknown[] = [];
  const inspect = async (params: unknown) => {
    asked.push(params);
    return snapshotWith({ forwarding });
  };
  const planTo = async (home: boolean) => {
    const host = hostFactsWith({ machine_id: 'beta' });
    const { source, destination } = fakeHosts({
      inspect,
      preflight: async () => ({ host, checks: [], home, published: home ? [] : published }),
    });
    const options = { forwardLeaseS: 90 };
    return (await makePlan('100', undefined, source.control, destination.control, options)).plan;
  };
  expect(await planTo(false)).toMatchObject({
    forward_new: { lease_s: 90, endpoints: ['tcp 10.77.1.2:7000'], relays: true },
    publish: published,
  });
  const atHome = await planTo(true);
  expect([atHome.forward_new, atHome.publish]).toEqual([undefined, undefined]);
  expect(atHome.checks).toMatchObject([{ name: 'forward-new', ok: true }]);
  expect(asked[0]).toEqual({ target: '100', forward_lease_s: 90 });
});

test('the checks of both hosts are in it', async () => {
  const { plan } = await planWith({
    inspect: async () => snapshotWith({ checks: [failed] }),
    preflight: async () => ({
      host: hostFactsWith({ machine_id: 'beta' }),
      checks: [{ ...failed, name: 'room' }],
    }),
  });
  expect(plan.checks.map(({ name }) => name)).toEqual(['cpu', 'room']);
});

test('target and name are passed on', async () => {
  const asked: unknown[] = [];
  const inspect = async (params: unknown) => {
    asked.push(params);
    return snapshotWith();
  };
  await planWith({ inspect });
  await planWith({ inspect }, 'redis');
  expect(asked).toEqual([{ target: '100' }, { target: '100', name: 'redis' }]);
});

test('two names of one host are SAME_HOST', async () => {
  const preflight = async () => ({ host: hostFactsWith(), checks: [] });
  await expect(planWith({ preflight })).rejects.toMatchObject({ code: 'SAME_HOST', phase: 'plan' });
});

test.each<[string, Partial<Plan>, Legacy, string | undefined]>([
  ['all is well', {}, 'refuse', undefined],
  ['a check fails', { checks: [failed] }, 'drop', 'PREFLIGHT'],
  ['a peer has no agent', { peers: [legacy] }, 'refuse', 'LEGACY_PEERS'],
  ['a peer has no agent and is to be dropped', { peers: [legacy] }, 'drop', undefined],
  ['a peer has no agent and is to be relayed', { peers: [legacy] }, 'relay', undefined],
  ['a peer that appeared elsewhere has no agent', { peers: [legacy], home: false }, 'relay', 'LEGACY_PEERS'],
  ['both', { checks: [failed], peers: [legacy] }, 'refuse', 'PREFLIGHT'],
])('%s', (_what, changes, how, code) => {
  const check = () => checkPlan(planOf(changes), how);
  if (code === undefined) expect(check).not.toThrow();
  else expect(check).toThrow(expect.objectContaining({ code, phase: 'plan' }));
});

test('every failed check and every legacy peer is named', () => {
  const checks = [failed, { ...failed, name: 'room', message: 'no room' }];
  expect(() => checkPlan(planOf({ checks }), 'refuse')).toThrow(
    /cpu: lacks avx; room: no room.*Nothing was touched/,
  );
  const peers = [legacy, { ...legacy, address: '10.77.6.2' }];
  expect(() => checkPlan(planOf({ peers }), 'refuse')).toThrow(
    /10\.77\.5\.2 \(3 flows\), 10\.77\.6\.2 \(3 flows\)/,
  );
});
