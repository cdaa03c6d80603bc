import { afterEach, expect, test, vi } from 'vitest';
import { runTerminalClient } from './client.ts';

afterEach(() => {
  vi.unstubAllEnvs();
  Reflect.deleteProperty(process.stdin, 'isTTY');
});

test('a host without tmux is a status, and no words on a screen that is not ours', async () => {
  Object.defineProperty(process.stdin, 'isTTY', { value: true, configurable: true });
  vi.stubEnv('PATH', '/nonexistent');
  await expect(runTerminalClient('/nonexistent', 'a'.repeat(32))).resolves.toBe(1);
});
