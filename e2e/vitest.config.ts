/** Two projects: `unit`, pure and beside its files; `e2e`, one file after the other against the one lab of this machine. */
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const TEST_MS_MAX = 120_000;

export default defineConfig({
  root: fileURLToPath(new URL('..', import.meta.url)),
  test: {
    reporters: ['default', fileURLToPath(new URL('./reporter.ts', import.meta.url))],
    projects: [
      { extends: true, test: { name: 'unit', include: ['{agent,orchestrator,fixtures}/**/*.test.ts'] } },
      {
        extends: true,
        test: {
          name: 'e2e',
          include: ['e2e/**/*.test.ts'],
          globalSetup: fileURLToPath(new URL('./global-setup.ts', import.meta.url)),
          fileParallelism: false,
          testTimeout: TEST_MS_MAX,
          hookTimeout: TEST_MS_MAX,
        },
      },
    ],
  },
});
