import { describe, expect, test } from 'vitest';
import {
  hasMoved,
  type KeptFlow,
  labelsOf,
  movedFlows,
  parseGoing,
  parseUsable,
  wireAddress,
} from './places.ts';

const OLD = '10.77.1.2';
const NEW = '10.77.6.2';
const PEER = { address: '10.77.4.2', port: 51_000 };
const half = { protocol: 'tcp', remote: PEER, scope: 0, localSide: 0, via: 0, path: 2 } as const;
const local = { address: OLD, port: 7_000 };
const plain: KeptFlow = { ...half, local, wireLocal: local };
const away: KeptFlow = { ...half, local, wireLocal: { address: NEW, port: 40_000 } };
const loose: KeptFlow = { ...plain, protocol: 'udp', isLoose: true };

function host(usable: readonly string[], source = usable[0], isInside = false) {
  return { usable: new Set(usable), source, isInside };
}

describe('what this host can be reached by', () => {
  const link = (ifname: string, addresses: object[], flags = ['UP', 'LOWER_UP']) => ({
    ifname,
    flags,
    addr_info: addresses,
  });
  const address = (text: string, more: object = {}) => ({ local: text, scope: 'global', ...more });

  test.each([
    ['an address of a device', [link('eth0', [address(OLD)])], [OLD]],
    ['not without a carrier', [link('eth0', [address(OLD)], ['UP'])], []],
    ['not while it is tentative', [link('eth0', [address('fd77::2', { tentative: true })])], []],
    ['not by a link-local one', [link('eth0', [address('fe80::1', { scope: 'link' })])], []],
    ['not where it is only kept', [link('lo', [address(OLD)])], []],
    ['kept, and on a device still', [link('lo', [address(OLD)]), link('eth0', [address(OLD)])], [OLD]],
    ["the loopback device's own", [link('lo', [address('192.0.2.1')])], ['192.0.2.1']],
  ])('%s', (_, links, found) => {
    expect([...parseUsable(JSON.stringify(links), new Set([OLD]))]).toEqual(found);
  });
});

describe('what is about to go', () => {
  const lifetimes = (more: object) =>
    JSON.stringify([
      { ifname: 'eth0', flags: ['LOWER_UP'], addr_info: [{ local: OLD, scope: 'global', ...more }] },
    ]);

  test.each([
    ['a deprecated address whose lease ends', { deprecated: true, valid_life_time: 60 }, [OLD]],
    ['not one that is deprecated for ever', { deprecated: true, valid_life_time: 0xffff_ffff }, []],
    ['not one whose lease will be renewed', { valid_life_time: 60 }, []],
  ])('%s', (_, more, going) => {
    expect([...parseGoing(lifetimes(more), new Set())]).toEqual(going);
  });

  const leaving = (usable: readonly string[], source?: string) => ({
    ...host(usable, source),
    going: new Set([OLD]),
  });
  test.each([
    ['goes to the new one while the old one works', plain, leaving([OLD, NEW], NEW), NEW],
    [
      'goes on from a place that is about to go',
      { ...away, wireLocal: { address: OLD, port: 1 } },
      leaving([OLD, NEW], NEW),
      NEW,
    ],
    ['stays where there is no other', plain, leaving([OLD], OLD), OLD],
    ['that is bound to no address speaks as the kernel has it', loose, leaving([OLD, NEW], NEW), OLD],
    ['is elsewhere already', away, leaving([OLD, NEW], NEW), NEW],
  ])('a flow %s', (_, flow, wanted, address) => {
    expect(wireAddress(flow, wanted)).toBe(address);
  });
});

test.each([
  ['at home', plain, host([OLD]), OLD],
  ['lost its address', plain, host([NEW]), NEW],
  ['got another one besides', plain, host([NEW, OLD]), OLD],
  ['has none at the moment', plain, host([]), undefined],
  ['has one of the other family only', plain, host(['fd77::2']), undefined],
  ['stays where it has come to', away, host(['10.77.7.2', NEW]), NEW],
  ['moves on', away, host(['10.77.7.2']), '10.77.7.2'],
  ['comes home', away, host([NEW, OLD]), OLD],
  ['a route that leads from an address that is gone', plain, host([NEW], OLD), undefined],
  ['a cell with a network of its own has no home here', away, host([OLD, NEW], OLD, true), NEW],
  ['and goes to where the host is', away, host([OLD], OLD, true), OLD],
])('the address on the wire of what %s', (_, flow, wanted, address) => {
  expect(wireAddress(flow, wanted)).toBe(address);
  expect(hasMoved(flow, wanted)).toBe(address !== undefined && address !== flow.wireLocal.address);
});

describe('what moves', () => {
  const draw = () => 40_007;

  test('gets a label, keeps it, and needs none at home', () => {
    const [first] = movedFlows([plain], host([NEW]), draw);
    expect(first?.wireLocal).toEqual({ address: NEW, port: 40_007 });
    const [second] = movedFlows(first === undefined ? [] : [first], host(['10.77.7.2']), () => 0);
    expect(second?.wireLocal).toEqual({ address: '10.77.7.2', port: 40_007 });
    expect(movedFlows(second === undefined ? [] : [second], host([OLD]), () => 0)).toEqual([plain]);
  });

  test('keeps its port where its socket has no address', () => {
    expect(movedFlows([loose], host([NEW]), () => 0)[0]?.wireLocal).toEqual({ address: NEW, port: 7_000 });
  });

  test('is nothing where nothing has changed', () => {
    expect(movedFlows([plain, away], host([OLD, NEW]), draw).map(({ wireLocal }) => wireLocal)).toEqual([
      local,
    ]);
  });

  test('is one label an endpoint, by the name that the peer has for it', () => {
    const known = { address: '10.77.9.9', port: 9 };
    const other = { ...away, remote: { ...PEER, port: 51_001 } };
    const named = { ...away, local: { address: OLD, port: 7_001 }, known };
    expect(labelsOf([away, other, named])).toEqual([
      { protocol: 'tcp', virtual: local, wire: away.wireLocal },
      { protocol: 'tcp', virtual: known, wire: away.wireLocal },
    ]);
  });
});
