import { expect, test } from 'vitest';
import { temporaryDirectory } from '../test-support.ts';
import { availableMemory, cpuFlags, hostFacts } from './facts.ts';

test.each([
  ['x86-64', 'processor\t: 0\nflags\t\t: sse2 fpu avx\nbugs\t\t: x\nprocessor\t: 1\nflags\t\t: other\n'],
  ['arm64', 'processor\t: 0\nFeatures\t: sse2 avx fpu\nCPU part\t: 0xd0c\n'],
])('CPU features on %s, sorted', (_arch, cpuinfo) => {
  expect(cpuFlags(cpuinfo)).toEqual(['avx', 'fpu', 'sse2']);
});

test('no CPU features where there is no such line', () => {
  expect(cpuFlags('processor: 0\n')).toEqual([]);
});

test('available memory in bytes, unbounded where the kernel does not say', () => {
  expect(availableMemory('MemTotal:  100 kB\nMemAvailable:    2048 kB\nBuffers: 1 kB\n')).toBe(
    2 * 1024 * 1024,
  );
  expect(availableMemory('MemTotal:  100 kB\n')).toBe(Number.MAX_SAFE_INTEGER);
});

test('the facts of this host', async () => {
  const facts = await hostFacts(temporaryDirectory());
  expect(facts).toMatchObject({ arch: process.arch, kernel: expect.stringMatching(/^\d+\.\d+/) });
  expect(facts.machine_id).toMatch(/^[0-9a-f-]{36}/);
  expect(facts.cpu_flags.length).toBeGreaterThan(0);
  expect(facts.room_bytes).toBeGreaterThan(0);
  if (facts.criu !== null) expect(facts.criu).toMatch(/^\d+\.\d+/);
});
