import { describe, expect, it } from 'vitest';
import { NO_FLEET } from '../fleet/fleet.ts';
import { drainArgv } from './detach.ts';
import { limitsOf } from './drain.ts';

const NOTHING = { dryRun: false, yes: false };

describe('limitsOf', () => {
  it('takes the option, else the fleet file, else the usual', () => {
    const fleet = { ...NO_FLEET, drain: { parallel: 4, deadline: '10m', legacy: 'relay' } } as const;
    expect(limitsOf(NOTHING, NO_FLEET)).toEqual({ parallel: 2, deadlineMs: undefined, legacy: 'refuse' });
    expect(limitsOf(NOTHING, fleet)).toEqual({ parallel: 4, deadlineMs: 600_000, legacy: 'relay' });
    expect(limitsOf({ ...NOTHING, parallel: 1, deadline: '5s', legacy: 'drop' }, fleet)).toEqual({
      parallel: 1,
      deadlineMs: 5_000,
      legacy: 'drop',
    });
  });

  it.each([
    { parallel: 0 },
    { parallel: 1.5 },
    { parallel: Number.NaN },
    { parallel: 65 },
    { deadline: '10' },
  ])('refuses %o', (bad) => {
    expect(() => limitsOf({ ...NOTHING, ...bad }, NO_FLEET)).toThrow(
      expect.objectContaining({ code: 'USAGE' }),
    );
  });
});

describe('drainArgv', () => {
  it('says the same again, without --detach and without questions', () => {
    expect(
      drainArgv('ssh://alpha', {
        ...NOTHING,
        sshConfig: 'c',
        fleet: 'f',
        to: 'ssh://beta',
        parallel: 3,
        deadline: '1h',
        select: 'app=redis',
        legacy: 'drop',
        sync: true,
        reason: 'new memory',
        detach: true,
      }),
    ).toEqual(
      '--ssh-config c --fleet f drain ssh://alpha --to ssh://beta --parallel 3 --deadline 1h --select app=redis --legacy drop --sync --reason'
        .split(' ')
        .concat('new memory', '--yes', '--json'),
    );
    expect(drainArgv('local', { ...NOTHING, self: true })).toEqual(['drain', '--self', '--yes', '--json']);
  });
});
