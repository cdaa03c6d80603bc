/** Ends the output with the one plain line that people and CI look for. */
import type { Reporter, TestModule } from 'vitest/node';
import { countsLine } from '../fixtures/lanes.ts';

export default class PlainLine implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    const counts = { passed: 0, failed: errors.length, skipped: 0 };
    for (const module of modules) {
      if (module.errors().length > 0) counts.failed++;
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        if (state === 'passed' || state === 'failed' || state === 'skipped') counts[state]++;
      }
    }
    // After the default reporter's own summary.
    process.once('exit', () => {
      process.stdout.write(`${countsLine(counts)}\n`);
    });
  }
}
