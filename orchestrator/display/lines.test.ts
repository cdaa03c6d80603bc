import { expect, it } from 'vitest';
import { createLines } from './lines.ts';

it('writes a line for each thing that happens, and progress now and then', () => {
  const lines: string[] = [];
  let nowMs = 0;
  const emit = createLines(
    (line) => lines.push(line),
    () => nowMs,
  );
  emit({ event: 'phase', phase: 'freeze', state: 'start' });
  for (; nowMs < 10_000; nowMs += 100) emit({ event: 'progress', bytes: nowMs * 1000, bytes_per_s: 1e6 });
  emit({ event: 'phase', phase: 'freeze', state: 'done' });
  emit({ event: 'phase', phase: 'restore', state: 'failed', ms: 3 });
  emit({ event: 'note', level: 'info', message: 'a' });
  emit({ event: 'note', level: 'warn', message: 'b' });
  emit({ event: 'blackout', ms: 412 });
  expect(lines).toEqual([
    'freeze: started\n',
    'image: 0 B at 1.00 MB/s\n',
    'image: 5.00 MB at 1.00 MB/s\n',
    'freeze: done in 10.0 s\n',
    'restore: failed after 3 ms\n',
    'a\n',
    'warning: b\n',
    'blackout: 412 ms\n',
  ]);
});
