import { expect, test } from 'vitest';
import { checkLeavable } from './leaving.ts';

const OLD = '10.77.1.2';
const NEW = '10.77.6.2';

test.each([
  ['there is another', [OLD], [OLD, NEW], undefined],
  ['there is none of its family', [OLD], [OLD, 'fd77::2'], 'no address but 10.77.1.2'],
  ['all are to be left', [OLD, NEW], [OLD, NEW], 'no address but'],
  ['it is not there', [OLD], [NEW], '10.77.1.2 is no address of this host'],
])('an address is left where %s', (_, addresses, usable, refused) => {
  const leave = () => checkLeavable(addresses, new Set(usable), new Set(addresses));
  if (refused === undefined) expect(leave).not.toThrow();
  else expect(leave).toThrow(refused);
});
