import { expect, it } from 'vitest';
import { type PublishFacts, publicationsOf } from './publication.ts';

const facts: PublishFacts = {
  listeners: [{ protocol: 'tcp', address: '0.0.0.0', port: 7000 }],
  addresses: ['10.77.1.2', 'fd77::2'],
  own: ['10.77.2.2', 'fd77:0:0:2::2'],
  bound: [],
};
const wires = (found: ReturnType<typeof publicationsOf>) =>
  found.publications.map(({ wire, local }) => `${wire.address} ${wire.port} ${local.address} ${local.port}`);

it('a port is published at every address of the listener’s family', () => {
  expect(wires(publicationsOf([{ port: 7000 }], facts))).toEqual(['10.77.2.2 7000 10.77.1.2 7000']);
  const any = { ...facts, listeners: [{ protocol: 'tcp', address: '::', port: 7000 }] } as const;
  expect(wires(publicationsOf([{ port: 7000 }], any))).toEqual([
    '10.77.2.2 7000 10.77.1.2 7000',
    'fd77:0:0:2::2 7000 fd77::2 7000',
  ]);
});

it('the only listener may be published at any port, one of several by its own', () => {
  expect(wires(publicationsOf([{ port: 80 }], facts))).toEqual(['10.77.2.2 80 10.77.1.2 7000']);
  const listeners = [...facts.listeners, { protocol: 'tcp', address: '0.0.0.0', port: 7001 } as const];
  expect(publicationsOf([{ port: 80 }], { ...facts, listeners }).problems).toHaveLength(1);
  expect(wires(publicationsOf([{ port: 80, listener: 7001 }], { ...facts, listeners }))).toEqual([
    '10.77.2.2 80 10.77.1.2 7001',
  ]);
});

it.each([
  [{ port: 7000, address: '10.77.3.2' }, facts, 'is no address of the destination'],
  [{ port: 7000, listener: 9 }, facts, 'has no listener at port 9'],
  [{ port: 41_000 }, facts, 'Osmosis needs itself'],
  [{ port: 18_018 }, facts, 'Osmosis needs itself'],
  [{ port: 7000, address: 'fd77:0:0:2::2' }, facts, 'no listener at port 7000 is of the address family'],
  [
    { port: 7000 },
    { ...facts, listeners: [{ protocol: 'tcp', address: '127.0.0.1', port: 7000 }] },
    'from its own host only',
  ],
  [{ port: 7000 }, { ...facts, bound: [{ protocol: 'tcp', address: '::', port: 7000 }] }, 'is in use'],
] as const)('%o is refused by name', (spec, given, why) => {
  expect(publicationsOf([spec], given as PublishFacts).problems.join()).toContain(why);
});

it('one endpoint can’t be two listeners', () => {
  const listeners = [...facts.listeners, { protocol: 'tcp', address: '0.0.0.0', port: 7001 } as const];
  const specs = [
    { port: 80, listener: 7000 },
    { port: 80, listener: 7001 },
  ];
  expect(publicationsOf(specs, { ...facts, listeners }).problems.join()).toContain('two listeners at once');
});
