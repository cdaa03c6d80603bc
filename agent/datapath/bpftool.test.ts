import { expect, test } from 'vitest';
import {
  deleteLine,
  dumpArgv,
  dumpLine,
  loadArgv,
  NET_ARGV,
  parseAttachments,
  parseDump,
  parseDumps,
  parseProgramIds,
  programLine,
  updateLine,
} from './bpftool.ts';

test('argv', () => {
  expect(loadArgv('/run/osmosis/bpf', '/opt/o.o')).toEqual([
    'prog',
    'loadall',
    '/opt/o.o',
    '/run/osmosis/bpf/programs',
    'pinmaps',
    '/run/osmosis/bpf/maps',
  ]);
  expect(dumpArgv('/b', 'sides')).toEqual(['-j', 'map', 'dump', 'pinned', '/b/maps/sides']);
  expect(programLine('/b', 'to_wire')).toBe('prog show pinned /b/programs/to_wire');
  expect(dumpLine('/b', 'sides')).toBe('map dump pinned /b/maps/sides');
  expect(NET_ARGV).toEqual(['-j', 'net', 'show']);
});

test('batch lines', () => {
  const key = Uint8Array.of(1, 0, 0, 0);
  expect(updateLine('/b', 'sides', key, Uint8Array.of(0xff, 10))).toBe(
    'map update pinned /b/maps/sides key hex 01 00 00 00 value hex ff 0a',
  );
  expect(deleteLine('/b', 'sides', key)).toBe('map delete pinned /b/maps/sides key hex 01 00 00 00');
});

test('a dump, of a plain map and of one with a value for each CPU', () => {
  const plain = '[{"key":["0x01","0x00"],"value":["0xff"],"formatted":{"key":1,"value":255}}]';
  expect(parseDump(plain)).toEqual([{ key: Uint8Array.of(1, 0), values: [Uint8Array.of(255)] }]);
  const perCpu = '[{"key":["0x00"],"values":[{"cpu":0,"value":["0x02"]},{"cpu":1,"value":["0x03"]}]}]';
  expect(parseDump(perCpu)).toEqual([
    { key: Uint8Array.of(0), values: [Uint8Array.of(2), Uint8Array.of(3)] },
  ]);
});

test('dumps, as one process answers them', () => {
  const json =
    '[{"command":["map"],"output":[{"key":["0x01"],"value":["0xff"]}]},{"command":["map"],"output":[]}]';
  expect(parseDumps(json)).toEqual([[{ key: Uint8Array.of(1), values: [Uint8Array.of(255)] }], []]);
});

test('programs and where they hang, as bpftool 7.1 says it, and TCX programs as later ones do', () => {
  const shown =
    '[{"command":["prog","show","pinned","/b/programs/from_wire"],"output":{"id":493,"type":"sched_cls","name":"from_wire"}},{"command":[],"output":{"id":7}}]';
  expect(parseProgramIds(shown)).toEqual([493, 7]);
  const json = JSON.stringify([
    {
      xdp: [],
      tc: [
        { devname: 'eth0', ifindex: 2, kind: 'clsact/ingress', name: 'from_wire:[*fsobj]', id: 493 },
        { devname: 'eth1', ifindex: 3, kind: 'tcx/ingress', name: 'other', prog_id: 7 },
      ],
      flow_dissector: [],
    },
  ]);
  expect(parseAttachments(json)).toEqual([
    { device: 'eth0', ifindex: 2, programId: 493 },
    { device: 'eth1', ifindex: 3, programId: 7 },
  ]);
});
