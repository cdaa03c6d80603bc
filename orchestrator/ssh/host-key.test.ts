import { describe, expect, it } from 'vitest';
import { parseSshConfig } from './config.ts';
import { createHostKeyVerifier, isAccepted, judgeHostKey, offeredAlgorithms } from './host-key.ts';
import type { KnownHost, KnownKey } from './known-hosts.ts';

const blob = (type: string, body: string) =>
  Buffer.concat([Buffer.from([0, 0, 0, type.length]), Buffer.from(type), Buffer.from(body)]);
const ONE = blob('ssh-ed25519', 'one');
const TWO = blob('ssh-ed25519', 'two');
const RSA = blob('ssh-rsa', 'rsa');
const key = (body: Buffer, type = 'ssh-ed25519', marker: KnownKey['marker'] = 'none'): KnownKey => ({
  marker,
  type,
  blob: body,
  file: '/f',
  line: 1,
});
const host = (named: KnownKey[], bare: KnownKey[] = []): KnownHost => ({ name: '[h]:2222', named, bare });
const config = (policy: string, more = '') =>
  parseSshConfig(`user u\nhostname h\nport 2222\nstricthostkeychecking ${policy}\n${more}`, {});

describe('judgeHostKey', () => {
  it.each([
    ['no record', host([]), 'unknown'],
    ['its key', host([key(ONE)]), 'known'],
    ['its key among others', host([key(TWO), key(RSA, 'ssh-rsa'), key(ONE)]), 'known'],
    ['another key', host([key(TWO)]), 'changed'],
    ['a key of another type only', host([key(RSA, 'ssh-rsa')]), 'changed'],
    ['its key, revoked', host([key(ONE), key(ONE, 'ssh-ed25519', 'revoked')]), 'revoked'],
    ['another key, revoked', host([key(TWO, 'ssh-ed25519', 'revoked')]), 'unknown'],
    ['only an authority', host([key(ONE, 'ssh-ed25519', 'cert-authority')]), 'unknown'],
    ['its key, without the port', host([], [key(ONE)]), 'known'],
    ['another key, without the port', host([], [key(TWO)]), 'unknown'],
    ['its key revoked, without the port', host([key(ONE)], [key(ONE, 'ssh-ed25519', 'revoked')]), 'revoked'],
  ])('%s', (_name, known, verdict) => {
    expect(judgeHostKey(ONE, known)).toBe(verdict);
  });
});

describe('isAccepted', () => {
  it('lets an unknown key pass only where the configuration says so, and a bad one never', () => {
    const accepted = (['yes', 'accept-new', 'no'] as const).map((policy) =>
      (['known', 'unknown', 'changed', 'revoked'] as const).filter((verdict) => isAccepted(verdict, policy)),
    );
    expect(accepted).toEqual([['known'], ['known', 'unknown'], ['known', 'unknown']]);
  });
});

describe('offeredAlgorithms', () => {
  it('puts the types on record first', () => {
    const offered = offeredAlgorithms(host([key(RSA, 'ssh-rsa')]), []);
    expect(offered.slice(0, 3)).toEqual(['rsa-sha2-512', 'rsa-sha2-256', 'ssh-ed25519']);
    expect(offered).toHaveLength(6);
  });

  it('keeps to what the configuration allows', () => {
    expect(offeredAlgorithms(host([]), ['ssh-ed25519', 'sk-ssh-ed25519@openssh.com'])).toEqual([
      'ssh-ed25519',
    ]);
  });
});

describe('createHostKeyVerifier', () => {
  it('tells an operator the fingerprint and what to type', () => {
    const verifier = createHostKeyVerifier(config('yes'), host([]), 'ssh -p 2222 h');
    expect(verifier.verify(ONE)).toBe(false);
    expect(verifier.error()).toMatchObject({ code: 'SSH_HOST_KEY' });
    expect(verifier.error()?.message).toMatch(
      /ssh-ed25519 SHA256:\S+\..*`ssh -p 2222 h`.*ssh-keyscan -p 2222 h/,
    );
  });

  it('shouts when a key has changed, with the record to look at', () => {
    const verifier = createHostKeyVerifier(config('no'), host([key(TWO)]), 'ssh h');
    expect(verifier.verify(ONE)).toBe(false);
    expect(verifier.error()?.message).toMatch(/HAS CHANGED.*\/f:1.*ssh-keygen -R '\[h\]:2222'/);
  });

  it('gives the new key to remember, and holds the host to it', () => {
    const verifier = createHostKeyVerifier(config('accept-new'), host([]), 'ssh h');
    expect(verifier.verify(ONE)).toBe(true);
    expect(verifier.newKey()).toBe(ONE);
    expect(verifier.verify(TWO)).toBe(false);
    expect(verifier.error()?.message).toContain('HAS CHANGED');
  });
});
