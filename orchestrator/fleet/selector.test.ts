import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { OsmosisError } from '../../agent/error.ts';
import { parseSelector } from './selector.ts';

const REDIS = { name: 'redis-1', labels: { app: 'redis', tier: 'cache' } };

describe('parseSelector', () => {
  it.each([
    ['name=redis-1', true],
    ['name=redis-*', true],
    ['name=nginx-*', false],
    ['name!=nginx-*', true],
    ['app=redis', true],
    ['app==redis', true],
    ['app = redis , tier=cache', true],
    ['app=redis,tier=db', false],
    ['app', true],
    ['!app', false],
    ['!keep', true],
    ['keep=yes', false],
    ['keep!=yes', true],
    ['app={redis,valkey}', undefined],
  ])('%s: %o', (expression, expected) => {
    if (expected === undefined) expect(() => parseSelector(expression)).toThrow(OsmosisError);
    else expect(parseSelector(expression)(REDIS)).toBe(expected);
  });

  it.each(['', ',', 'app=redis,', '=redis', 'a b', '!app=redis', 'app=a b', 'x,'.repeat(64)])(
    'refuses %s',
    (expression) => {
      expect(() => parseSelector(expression)).toThrow(/not a selection/);
    },
  );

  it('either refuses an expression or answers', () => {
    fc.assert(
      fc.property(fc.string(), (expression) => {
        try {
          expect(typeof parseSelector(expression)(REDIS)).toBe('boolean');
        } catch (error) {
          expect(error).toMatchObject({ code: 'USAGE' });
        }
      }),
    );
  });
});
