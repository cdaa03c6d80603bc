import { expect, test } from 'vitest';
import { acceptsOf, endpointsOf } from './forwarding.ts';

const tcp = (address: string, port = 7000) => ({ protocol: 'tcp' as const, address, port });

test('a listener on any address stands for those of its family, and what nobody else can reach is left out', () => {
  const own = ['10.77.1.2', 'fd77::1', '127.0.0.1', 'fe80::1'];
  expect(endpointsOf([tcp('0.0.0.0')], own)).toEqual([tcp('10.77.1.2')]);
  expect(endpointsOf([tcp('::')], own)).toEqual([tcp('10.77.1.2'), tcp('fd77::1')]);
  expect(endpointsOf([tcp('127.0.0.1'), tcp('::1'), tcp('fe80::1')], own)).toEqual([]);
  expect(endpointsOf([tcp('10.77.1.2'), tcp('0.0.0.0')], own)).toEqual([tcp('10.77.1.2')]);
});

test('peers that use one wire endpoint share its rule', () => {
  const virtual = { address: '10.77.1.2', port: 7000 };
  const label = (peer: string, address: string) => ({
    protocol: 'tcp' as const,
    virtual,
    peer,
    wire: { address, port: 40_000 },
  });
  const labels = [label('p', '10.77.2.2'), label('q', '10.77.2.2'), label('r', '10.99.2.2')];
  const rules = acceptsOf(labels, { side: 5, scope: 9 });
  expect(rules.map(({ wire }) => wire.address)).toEqual(['10.77.2.2', '10.99.2.2']);
  expect(rules[0]).toMatchObject({ kind: 'accept', local: virtual, localSide: 5, scope: 9 });
});
