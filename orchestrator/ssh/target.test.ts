import { describe, expect, it } from 'vitest';
import { parseTarget, targetName } from './target.ts';

describe('parseTarget', () => {
  it.each([
    ['local', { kind: 'local' }],
    ['ssh://alpha', { kind: 'ssh', host: 'alpha' }],
    ['ssh://root@alpha:2222', { kind: 'ssh', host: 'alpha', user: 'root', port: 2222 }],
    ['ssh://alpha/', { kind: 'ssh', host: 'alpha' }],
    ['ssh://[fd00::1]:22', { kind: 'ssh', host: 'fd00::1', port: 22 }],
    ['ssh://ann@corp@alpha', { kind: 'ssh', host: 'alpha', user: 'ann@corp' }],
  ])('%s', (text, target) => {
    expect(parseTarget(text)).toEqual(target);
  });

  it.each([
    'alpha',
    'ssh://',
    'ssh://@alpha',
    'ssh://alpha:0',
    'ssh://alpha:65536',
    'ssh://alpha/etc',
    'ssh://root:secret@alpha',
    'ssh://-oProxyCommand=id',
    'ssh://-l@alpha',
    'ssh://al$(id)pha',
    'ssh://fd00::1',
    'http://alpha',
  ])('refuses %s', (text) => {
    expect(() => parseTarget(text)).toThrow(expect.objectContaining({ code: 'USAGE' }));
  });
});

describe('targetName', () => {
  it('is short, and tells ports apart', () => {
    expect(targetName({ kind: 'local' })).toBe('local');
    expect(targetName({ kind: 'ssh', host: 'alpha', user: 'root' })).toBe('alpha');
    expect(targetName({ kind: 'ssh', host: 'fd00::1', port: 2222 })).toBe('[fd00::1]:2222');
  });
});
