import { expect, test } from 'vitest';
import { flowWith } from '../test-support.ts';
import { killArgv } from './sockets.ts';

test('the filter names each connection, and nothing else passes it', () => {
  expect(
    killArgv([flowWith(51_000), flowWith(51_001)])
      .slice(5)
      .join(' '),
  ).toBe('( src 10.77.1.2:7000 and dst 10.77.4.2:51000 ) or ( src 10.77.1.2:7000 and dst 10.77.4.2:51001 )');
});
