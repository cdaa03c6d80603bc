import { homedir } from 'node:os';
import { describe, expect, it } from 'vitest';
import { destinationArguments, expandIdentityFile, parseSshConfig } from './config.ts';

/** From `ssh -G` of OpenSSH 9.2, shortened. */
const PRINTED = `host jumped
user root
hostname 10.0.0.1
port 2222
addressfamily inet6
identitiesonly yes
stricthostkeychecking accept-new
hashknownhosts yes
hostkeyalias bob
identityagent $MY_AGENT
identityfile ~/.ssh/%h_key
identityfile /tmp/with space/key
globalknownhostsfile /etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2
userknownhostsfile /root/.ssh/known_hosts /root/.ssh/known_hosts2
connecttimeout 7
hostkeyalgorithms ssh-ed25519,rsa-sha2-512
ciphers aes128-gcm@openssh.com,aes256-ctr
proxyjump u@j1:23,j2
`;
const MINIMAL = 'user ann\nhostname alpha\nport 22\n';

describe('parseSshConfig', () => {
  it('reads what ssh -G prints', () => {
    expect(parseSshConfig(PRINTED, { MY_AGENT: '/run/agent' })).toEqual({
      hostname: '10.0.0.1',
      user: 'root',
      port: 2222,
      family: 6,
      connectTimeoutMs: 7000,
      identityFiles: ['~/.ssh/%h_key', '/tmp/with space/key'],
      identitiesOnly: true,
      identityAgent: '/run/agent',
      userKnownHostsFiles: ['/root/.ssh/known_hosts', '/root/.ssh/known_hosts2'],
      globalKnownHostsFiles: ['/etc/ssh/ssh_known_hosts', '/etc/ssh/ssh_known_hosts2'],
      hashKnownHosts: true,
      hostKeyAlias: 'bob',
      hostKeyPolicy: 'accept-new',
      hostKeyAlgorithms: ['ssh-ed25519', 'rsa-sha2-512'],
      ciphers: ['aes128-gcm@openssh.com', 'aes256-ctr'],
      proxyJump: 'u@j1:23,j2',
      proxyCommand: undefined,
    });
  });

  it.each([
    ['ask', 'yes'],
    ['true', 'yes'],
    ['false', 'no'],
    ['off', 'no'],
    ['accept-new', 'accept-new'],
    ['something new', 'yes'],
  ])('takes StrictHostKeyChecking %s as %s', (value, policy) => {
    expect(parseSshConfig(`${MINIMAL}stricthostkeychecking ${value}\n`, {}).hostKeyPolicy).toBe(policy);
  });

  it.each([
    ['', '/run/sock'],
    ['identityagent SSH_AUTH_SOCK', '/run/sock'],
    ['identityagent none', undefined],
    ['identityagent /a/b', '/a/b'],
    ['identityagent $OTHER', undefined],
  ])('finds the agent of "%s"', (line, socket) => {
    expect(parseSshConfig(MINIMAL + line, { SSH_AUTH_SOCK: '/run/sock' }).identityAgent).toBe(socket);
  });

  it('knows none as nothing', () => {
    const text = `${MINIMAL}proxyjump none\nproxycommand none\nuserknownhostsfile none\nconnecttimeout none\nidentityfile none\n`;
    const config = parseSshConfig(text, {});
    expect(config).toMatchObject({ proxyJump: undefined, proxyCommand: undefined, connectTimeoutMs: 15_000 });
    expect(config).toMatchObject({ userKnownHostsFiles: [], identityFiles: [] });
  });

  it('refuses what is not a configuration', () => {
    expect(() => parseSshConfig('hello', {})).toThrow(expect.objectContaining({ code: 'SSH_CONFIG' }));
  });
});

describe('destinationArguments', () => {
  it('is what a person would type', () => {
    expect(destinationArguments({ kind: 'ssh', host: 'alpha' }, undefined)).toEqual(['alpha']);
    expect(destinationArguments({ kind: 'ssh', host: 'alpha', user: 'root', port: 23 }, '/f')).toEqual([
      ...['-F', '/f'],
      ...['-p', '23'],
      'root@alpha',
    ]);
  });
});

describe('expandIdentityFile', () => {
  it('replaces ~ and tokens, and leaves what it does not know', () => {
    const config = parseSshConfig(MINIMAL, {});
    expect(expandIdentityFile('~/.ssh/%r@%h:%p_%n_%%_%C', config, 'a', 'me')).toBe(
      `${homedir()}/.ssh/ann@alpha:22_a_%_%C`,
    );
  });
});
