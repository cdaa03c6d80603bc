import { describe, expect, it } from 'vitest';
import type { HostConnection } from '../ssh/host.ts';
import { installPackages, refuseUnfit } from './ground.ts';

const signal = new AbortController().signal;

/** A host whose programs end with these statuses, in turn; `ran` is what was run. */
function hostThat(...statuses: number[]): { host: HostConnection; ran: string[] } {
  const ran: string[] = [];
  const host: HostConnection = {
    name: 'a',
    openAgent: () => Promise.reject(new Error('not asked')),
    execute: async (argv) => {
      ran.push(argv.join(' '));
      return { status: statuses[ran.length - 1] ?? 0, stdout: '', stderr: 'E: no such package\n' };
    },
    openTerminal: () => Promise.reject(new Error('not asked')),
    close: async () => undefined,
  };
  return { host, ran };
}

describe('Debian packages that a host lacks', () => {
  it('are installed without questions, from fresh lists', async () => {
    const { host, ran } = hostThat(0, 0);
    await installPackages(host, ['bpftool', 'criu'], signal);
    expect(ran).toEqual([
      'env DEBIAN_FRONTEND=noninteractive apt-get -q -y update',
      'env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends bpftool criu',
    ]);
  });

  it('are an error with the words of apt where that fails', async () => {
    const { host, ran } = hostThat(100);
    await expect(installPackages(host, ['criu'], signal)).rejects.toMatchObject({
      code: 'INSTALL',
      message: expect.stringMatching(/update failed: E: no such package.*Nothing of Osmosis/),
    });
    expect(ran).toHaveLength(1);
  });
});

describe('a host that is not fit', () => {
  it('is refused with each thing and its remedy; warnings do not matter', () => {
    const fit = [{ check: 'capabilities', status: 'warn', what: 'x', why: 'y', remedy: 'z' }] as const;
    expect(() => refuseUnfit('a', fit, '')).not.toThrow();
    const unfit = [
      ...fit,
      { check: 'criu', status: 'fail', what: 'criu 3', why: 'y', remedy: 'newer' },
    ] as const;
    expect(() => refuseUnfit('a', unfit, '\nhint')).toThrow(
      /nothing was touched\.\n {2}criu: criu 3\n {4}do: newer\nhint/,
    );
  });
});
