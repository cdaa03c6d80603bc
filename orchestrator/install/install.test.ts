/** install() at a host that answers as it is told. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { OsmosisError } from '../../agent/error.ts';
import type { Hosts } from '../commands/hosts.ts';
import { HEALTHY } from '../doctor/fake-facts.ts';
import type { HostConnection } from '../ssh/host.ts';
import { install } from './install.ts';

const RELEASE = '1.2.3-abc';
const PACKAGE = { path: '/p.tgz', bytes: 1, sha256: 'abc', version: '1.2.3', release: RELEASE };
const FACTS = Object.entries(HEALTHY).flatMap(([name, value]) =>
  [value].flat().map((each) => `${name} ${each}`),
);
const NO_AGENT = () => Promise.reject(new OsmosisError('AGENT_UNREACHABLE', 'no agent runs here'));

test('Ctrl-C while the host is changed: that step ends before it is undone', async () => {
  const interrupt = new AbortController();
  const steps: string[] = [];
  const host: HostConnection = {
    name: 'alpha',
    openAgent: NO_AGENT,
    openTerminal: NO_AGENT,
    close: async () => undefined,
    execute: async ([, , , , step = ''], { signal }) => {
      if (step === '') return { status: 0, stdout: FACTS.join('\n'), stderr: '' };
      steps.push(`${step} begins`);
      if (step === 'activate') {
        setImmediate(() => interrupt.abort(new OsmosisError('INTERRUPTED', 'interrupted')));
        await sleep(20, undefined, { signal });
      }
      steps.push(`${step} ends`);
      return {
        status: 0,
        stdout: step === 'state' ? `current \nrelease ${RELEASE}\nsystemd yes` : '',
        stderr: '',
      };
    },
  };
  const hosts = { agent: NO_AGENT } as unknown as Hosts;
  const where = { hosts, host, signal: interrupt.signal, say: () => undefined };
  const installed = install(where, PACKAGE, { apt: false, supervised: false, dryRun: false });
  await expect(installed).rejects.toMatchObject({ code: 'INTERRUPTED' });
  expect(steps.slice(2)).toEqual(['activate begins', 'activate ends', 'uninstall begins', 'uninstall ends']);
});
