import { expect, test } from 'vitest';
import { controlling, isTerminal } from './terminals.ts';

test.for([
  ['/dev/pts/0', true],
  ['/dev/pts/ptmx', false],
  ['/dev/ptmx', false],
  ['/dev/tty', true],
  ['/dev/tty1', true],
  ['/dev/null', false],
] as const)('%s is a terminal: %j', ([link, is]) => {
  expect(isTerminal(link)).toBe(is);
});

test.for([
  ['42 (vim) S 1 42 42 34816 42 0', 0],
  ['42 (a) b) S 1 42 42 34823 42 0', 7],
  ['42 (vim) S 1 42 42 35073 42 0', 257],
  ['42 (getty) S 1 42 42 1025 42 0', undefined],
  ['42 (nginx) S 1 42 42 0 -1 0', undefined],
  ['', undefined],
] as const)('the controlling terminal of %j is %j', ([stat, number]) => {
  expect(controlling(stat)).toBe(number);
});
