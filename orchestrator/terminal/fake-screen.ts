/** For tests: a screen that shows nothing, always of one size. */
import type { Screen } from './session.ts';

export const BLIND: Screen = {
  kind: 'xterm',
  size: () => ({ columns: 80, rows: 24 }),
  show: () => undefined,
  onResize: () => () => undefined,
  reset: () => undefined,
};
