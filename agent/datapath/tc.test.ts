import { expect, test } from 'vitest';
import {
  filterAddArgv,
  filterDeleteArgv,
  filterReplaceArgv,
  filterShowArgv,
  hasClsact,
  isHookEmpty,
  linkArgv,
  parseLink,
  qdiscAddArgv,
  qdiscDeleteArgv,
  qdiscReplaceArgv,
  qdiscShowArgv,
} from './tc.ts';

test('argv', () => {
  const place = ['pref', '18018', 'handle', '1', 'protocol', 'all', 'bpf'];
  expect(filterAddArgv('eth0', 'ingress', '/b/programs/from_wire')).toEqual([
    ...['filter', 'add', 'dev', 'eth0', 'ingress', ...place],
    ...['direct-action', 'object-pinned', '/b/programs/from_wire'],
  ]);
  expect(filterDeleteArgv('eth0', 'egress')).toEqual(['filter', 'del', 'dev', 'eth0', 'egress', ...place]);
  expect(filterShowArgv('eth0', 'egress')).toEqual(['-j', 'filter', 'show', 'dev', 'eth0', 'egress']);
  expect(qdiscAddArgv('eth0')).toEqual(['qdisc', 'add', 'dev', 'eth0', 'clsact']);
  expect(qdiscDeleteArgv('eth0')).toEqual(['qdisc', 'del', 'dev', 'eth0', 'clsact']);
  expect(qdiscShowArgv('eth0')).toEqual(['-j', 'qdisc', 'show', 'dev', 'eth0']);
  expect(linkArgv('eth0')).toEqual(['-j', 'link', 'show', 'dev', 'eth0']);
});

test('the programs inside a cell have a class', () => {
  expect(qdiscReplaceArgv('lo').join(' ')).toBe('qdisc replace dev lo clsact');
  expect(filterReplaceArgv('lo', 'egress', '/p/cell_out', 4095).slice(-6).join(' ')).toBe(
    'bpf direct-action object-pinned /p/cell_out classid 1:fff',
  );
});

test('links', () => {
  const link = (link_type: string) =>
    JSON.stringify([{}, { ifindex: 3, ifname: 'eth0', mtu: 1400, link_type }]);
  expect(parseLink(link('ether'))).toEqual({ name: 'eth0', ifindex: 3, mtu: 1400, ethernet: true });
  expect(parseLink(link('loopback'))?.ethernet).toBe(true);
  expect(parseLink(link('none'))?.ethernet).toBe(false);
  expect(parseLink('[{}]')).toBeUndefined();
});

test('what hangs on a device', () => {
  expect(hasClsact('[{"kind":"noqueue"},{"kind":"clsact","handle":"ffff:"}]')).toBe(true);
  expect(hasClsact('[{"kind":"noqueue"}]')).toBe(false);
  expect(hasClsact('')).toBe(false);
  expect(isHookEmpty('[]')).toBe(true);
  expect(isHookEmpty('[{"protocol":"all","pref":1,"kind":"bpf","chain":0}]')).toBe(false);
});
