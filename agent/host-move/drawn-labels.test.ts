import { expect, test, vi } from 'vitest';
import { flowKey, type Protocol } from '../address.ts';
import { DrawnLabels } from './drawn-labels.ts';
import type { KeptFlow } from './places.ts';

const NEW = '10.77.2.2';
const wanted = { usable: new Set([NEW]), isInside: false, source: NEW };

function flow(port: number, peer: string, protocol: Protocol = 'tcp'): KeptFlow {
  const local = { address: '10.77.1.2', port };
  const remote = { address: peer, port: 51_000 };
  return { protocol, local, remote, scope: 0, wireLocal: local, localSide: 0, via: 0, path: 0 };
}

function scene() {
  let next = 40_000;
  const ports = {
    draw: vi.fn((protocols: readonly Protocol[]) => protocols.map(() => next++)),
    release: vi.fn(),
    take: vi.fn(),
  };
  const laneOf = (...flows: KeptFlow[]) => ({
    cell: 'c0',
    flows: new Map(flows.map((one) => [flowKey(one), one])),
  });
  return { ports, laneOf, labels: new DrawnLabels(ports, () => true) };
}

test('an endpoint has one label, whatever the number of its peers', () => {
  const { labels, ports } = scene();
  const [first] = labels.moved('c0', [flow(7000, '10.77.4.2')], wanted);
  const rest = labels.moved('c0', [flow(7000, '10.77.5.2'), flow(53, '10.77.5.2', 'udp')], wanted);
  expect([first, ...rest].map((one) => one?.wireLocal.port)).toEqual([40_000, 40_000, 40_001]);
  expect(ports.draw.mock.calls).toEqual([[['tcp']], [['udp']]]);
});

test('it is given back once no flow goes by it, and found again by the next agent', () => {
  const { labels, ports, laneOf } = scene();
  const moved = labels.moved('c0', [flow(7000, '10.77.4.2')], wanted);
  const lane = laneOf(...moved);
  labels.release([lane]);
  expect(ports.release).not.toHaveBeenCalled();
  const next = scene();
  next.labels.take([lane]);
  expect([...(next.ports.take.mock.calls[0]?.[0] ?? [])]).toEqual([{ protocol: 'tcp', port: 40_000 }]);
  labels.release([laneOf(flow(7000, '10.77.4.2'))]);
  expect(ports.release.mock.calls).toEqual([[[{ protocol: 'tcp', port: 40_000 }]]]);
});
