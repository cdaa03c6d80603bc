import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it, onTestFinished } from 'vitest';
import { findHost, loadFleet, NO_FLEET } from './fleet.ts';
import { parseFleet } from './parse.ts';
import { fleetJsonSchema } from './schema.ts';

const GOOD = `
hosts:
  alpha: { ssh: ssh://root@10.0.0.1:2222, labels: { zone: a } }
  beta:
  here: { ssh: local }
defaults:
  drain: { parallel: 2, deadline: 10m, legacy: relay }
`;

describe('parseFleet', () => {
  it('names hosts, what is said of them, and defaults', () => {
    expect(parseFleet(GOOD, 'f')).toEqual({
      file: 'f',
      hosts: [
        {
          name: 'alpha',
          target: { kind: 'ssh', user: 'root', host: '10.0.0.1', port: 2222 },
          labels: { zone: 'a' },
        },
        { name: 'beta', target: { kind: 'ssh', host: 'beta' }, labels: {} },
        { name: 'here', target: { kind: 'local' }, labels: {} },
      ],
      drain: { parallel: 2, deadline: '10m', legacy: 'relay' },
    });
  });

  it.each([
    ['', 'the file'],
    ['hosts: [alpha]', 'hosts'],
    ['hosts: { "al pha": }', 'hosts'],
    ['hosts: { alpha: { shh: ssh://a } }', 'hosts.alpha'],
    ['hosts: { alpha: { ssh: http://a } }', 'hosts.alpha.ssh'],
    ['hosts: { alpha: { ssh: ssh://a b } }', 'hosts.alpha.ssh'],
    ['hosts: {}\ndefaults: { drain: { parallel: 0 } }', 'defaults.drain.parallel'],
    ['hosts: {}\ndefaults: { drain: { legacy: keep } }', 'defaults.drain.legacy'],
    ['hosts: { a: }\nhosts: { b: }', 'unique'],
    ['hosts: {a', 'line 1'],
    [`a: &a [x,x]\nb: &b [*a,*a]\n${'c: [*b,*b]'.repeat(1)}`, 'the file'],
  ])('says what is wrong with %s', (text, complaint) => {
    expect(() => parseFleet(text, 'fleet.yaml')).toThrow(
      expect.objectContaining({ code: 'FLEET_FILE', message: expect.stringContaining(complaint) }),
    );
  });

  it('throws nothing else, whatever the text', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 200 }), (text) => {
        try {
          parseFleet(text, 'f');
        } catch (error) {
          expect(error).toMatchObject({ code: 'FLEET_FILE' });
        }
      }),
    );
  });
});

describe('loadFleet', () => {
  it('wants the one that was named', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'osmosis-fleet-'));
    onTestFinished(() => rmSync(directory, { recursive: true }));
    await expect(loadFleet(join(directory, 'none.yaml'))).rejects.toMatchObject({ code: 'FLEET_FILE' });
    writeFileSync(join(directory, 'f.yaml'), GOOD);
    expect((await loadFleet(join(directory, 'f.yaml'))).hosts).toHaveLength(3);
  });
});

describe('findHost', () => {
  const fleet = parseFleet(GOOD, 'f');

  it('knows names of the fleet, URLs and this machine', () => {
    expect(findHost(fleet, 'alpha')).toMatchObject({ name: 'alpha', target: { host: '10.0.0.1' } });
    expect(findHost(fleet, 'ssh://gamma').target).toEqual({ kind: 'ssh', host: 'gamma' });
    expect(findHost(NO_FLEET, 'local').target).toEqual({ kind: 'local' });
  });

  it('says whom it knows', () => {
    expect(() => findHost(fleet, 'gamma')).toThrow(/alpha, beta, here/);
    expect(() => findHost(NO_FLEET, 'gamma')).toThrow(/no fleet file/);
  });
});

it('has a schema for editors', () => {
  expect(fleetJsonSchema()).toMatchObject({
    type: 'object',
    required: ['hosts'],
    additionalProperties: false,
  });
});
