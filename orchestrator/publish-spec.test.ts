import { expect, it } from 'vitest';
import { publishSpec } from './publish-spec.ts';

it.each([
  ['7000', { port: 7000 }],
  ['10.0.0.1:80=7000', { address: '10.0.0.1', port: 80, listener: 7000 }],
  ['[fd00::1]:80', { address: 'fd00::1', port: 80 }],
])('%s', (text, spec) => {
  expect(publishSpec(text)).toEqual(spec);
});

it.each(['0', '70000', 'beta:80', 'fd00::1:80', '[10.0.0.1]:80', '80=', ''])('%s is refused', (text) => {
  expect(() => publishSpec(text)).toThrow('[ADDR:]PORT');
});
