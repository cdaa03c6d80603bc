import { createHmac } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { parseSshConfig } from './config.ts';
import { fingerprint, knownHostsLine, knownHostsName, parseFoundKeys } from './known-hosts.ts';

const ED25519 = 'AAAAC3NzaC1lZDI1NTE5AAAAIKIjLsAnEGZMm8Uw4ngi5ysX0WvwgQjrLMtphXq75Zk7';
const ECDSA =
  'AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBJmlaYDWN/gojlw33oUj3MInmQZxfemAV5C55O44ukCFd6+ta1KPym2v4qSIhMUg+h75nFJ+z74HP1ESJTSvCYY=';
/** From `ssh-keygen -F h.test` of OpenSSH 9.2: a hashed name, both markers, a pattern. */
const FOUND = `# Host h.test found: line 2 
|1|wiiM4sTaFapDcR8BQjl97LnJ47M=|GwTEBQ7nLAMWuPwX/0tFkJZKYuI= ssh-ed25519 ${ED25519} comment
# Host h.test found: line 4 REVOKED
@revoked h.test ssh-ed25519 ${ED25519}
# Host h.test found: line 5 CA
@cert-authority *.test ecdsa-sha2-nistp256 ${ECDSA}
# Host h.test found: line 6 
*.test,!x.test ecdsa-sha2-nistp256 ${ECDSA}
`;
const config = (lines: string) => parseSshConfig(`user u\n${lines}`, {});

describe('parseFoundKeys', () => {
  it('reads what ssh-keygen -F prints', () => {
    expect(parseFoundKeys(FOUND, '/f').map(({ marker, type, line }) => [marker, type, line])).toEqual([
      ['none', 'ssh-ed25519', 2],
      ['revoked', 'ssh-ed25519', 4],
      ['cert-authority', 'ecdsa-sha2-nistp256', 5],
      ['none', 'ecdsa-sha2-nistp256', 6],
    ]);
    expect(parseFoundKeys(FOUND, '/f')[0]).toMatchObject({
      file: '/f',
      blob: Buffer.from(ED25519, 'base64'),
    });
  });

  it('finds nothing in nothing, and skips markers that it does not know', () => {
    expect(parseFoundKeys('', '/f')).toEqual([]);
    expect(parseFoundKeys(`@new h ssh-ed25519 ${ED25519}\nh ssh-ed25519\n`, '/f')).toEqual([]);
  });
});

describe('knownHostsName', () => {
  it('has the port only where it is not 22, and is the alias where there is one', () => {
    expect(knownHostsName(config('hostname Alpha\nport 22'))).toBe('alpha');
    expect(knownHostsName(config('hostname fd00::1\nport 2222'))).toBe('[fd00::1]:2222');
    expect(knownHostsName(config('hostname alpha\nport 2222\nhostkeyalias Bob'))).toBe('Bob');
  });
});

describe('knownHostsLine', () => {
  const blob = Buffer.from(ED25519, 'base64');

  it('is a known_hosts line', () => {
    expect(knownHostsLine('alpha', 'ssh-ed25519', blob, false)).toBe(`alpha ssh-ed25519 ${ED25519}\n`);
  });

  it('hides the name on demand', () => {
    const [, , salt = '', hash] = (
      knownHostsLine('alpha', 'ssh-ed25519', blob, true).split(' ')[0] ?? ''
    ).split('|');
    expect(hash).toBe(createHmac('sha1', Buffer.from(salt, 'base64')).update('alpha').digest('base64'));
  });
});

describe('fingerprint', () => {
  it('is what ssh-keygen -l prints', () => {
    expect(fingerprint(Buffer.from(ED25519, 'base64'))).toBe(
      'SHA256:93alfYHrwSOWiD4lELtnOpasW8ctaOdEjXiP39b/BiU',
    );
  });
});
