import { expect, it } from 'vitest';
import { parseLabels } from './labels.ts';

it('takes KEY=VALUE, the last of a key', () => {
  expect(parseLabels()).toEqual({});
  expect(parseLabels(['app=redis', 'zone=', 'app=valkey'])).toEqual({ app: 'valkey', zone: '' });
});

it.each(['app', '=redis', 'a b=c', 'app=a b', `app=${'x'.repeat(64)}`])('refuses %s', (text) => {
  expect(() => parseLabels([text])).toThrow(/KEY=VALUE/);
});

it('refuses too many', () => {
  const many = Array.from({ length: 33 }, (_, index) => `k${index}=v`);
  expect(() => parseLabels(many)).toThrow(/at most 32/);
});
