import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, onTestFinished, test } from 'vitest';
import { childrenOf, isAlive } from '../proc/tree.ts';
import { eventually, temporaryDirectory } from '../test-support.ts';
import { type Cell, Registry } from './registry.ts';

async function startProcess(...argv: string[]): Promise<{ pid: number; end: () => Promise<void> }> {
  const [file = 'sleep', ...args] = argv;
  const child = spawn(file, argv.length === 0 ? ['60'] : args, { stdio: 'ignore' });
  await once(child, 'spawn');
  const end = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  };
  onTestFinished(end);
  return { pid: child.pid ?? 0, end };
}

/** A registry with one registered cell around a process of this test. */
async function withCell(name = 'server') {
  const directory = temporaryDirectory();
  const registry = new Registry(directory);
  const { pid, end } = await startProcess();
  const cell = registry.resolve(String(pid), name);
  registry.put(cell);
  return { directory, registry, cell, end };
}

const code = (expected: string) => expect.objectContaining({ code: expected });

test('a process that was looked at is one tentative cell, found again, and not listed', async () => {
  const registry = new Registry(temporaryDirectory());
  const { pid } = await startProcess();
  const cell = registry.resolve(String(pid));
  expect(cell).toMatchObject({ pid, name: expect.stringMatching(/^sleep-[0-9a-f]{4}$/), side: 0, peers: [] });
  expect(cell.id).toMatch(/^[0-9a-f]{32}$/);
  expect(registry.resolve(String(pid))).toBe(cell);
  expect(registry.get(cell.id)).toBe(cell);
  expect([registry.all(), registry.isRegistered(cell.id)]).toEqual([[], false]);
});

test('a registered cell is found by name, id, root and any process below it, also after a restart', async () => {
  const directory = temporaryDirectory();
  const registry = new Registry(directory);
  const { pid } = await startProcess('sh', '-c', 'sleep 60 & wait');
  const cell = registry.resolve(String(pid), 'server');
  registry.put(cell);
  await eventually(() => expect(childrenOf(pid).length).toBe(1));
  const [child = 0] = childrenOf(pid);
  onTestFinished(() => void (isAlive(child) && process.kill(child, 'SIGKILL')));
  for (const again of [registry, new Registry(directory)])
    for (const target of ['server', cell.id, String(pid), String(child)])
      expect(again.resolve(target).id).toBe(cell.id);
  registry.remove(cell.id);
  expect(new Registry(directory).all()).toEqual([]);
});

test.each(['nobody', '0', '-1', '1e3', '99999999999', '', '../x'])('%j is NO_SUCH_TARGET', (target) => {
  expect(() => new Registry(temporaryDirectory()).resolve(target)).toThrow(code('NO_SUCH_TARGET'));
});

test('a cell whose process has ended, or whose pid is somebody else’s by now, is no target', async () => {
  const { registry, cell, end } = await withCell();
  const reused: Cell = { ...cell, id: 'ab'.repeat(16), name: 'reused', ticks: 1 };
  registry.put(reused);
  expect(() => registry.resolve('reused')).toThrow(code('NO_SUCH_TARGET'));
  await end();
  expect(() => registry.resolve('server')).toThrow(code('NO_SUCH_TARGET'));
  expect(() => registry.resolve(String(cell.pid))).toThrow(code('NO_SUCH_TARGET'));
});

test('only one migration holds a cell', async () => {
  const { registry, cell } = await withCell();
  registry.lock(cell.id);
  expect(() => registry.lock(cell.id)).toThrow(expect.objectContaining({ code: 'BUSY', phase: 'plan' }));
  expect(registry.isLocked(cell.id)).toBe(true);
  registry.unlock(cell.id);
  registry.lock(cell.id);
});

test('names are safe and free', async () => {
  const { registry } = await withCell();
  expect(registry.freeName('redis_1.main-2')).toBe('redis_1.main-2');
  for (const name of ['server', '', '-x', '.x', 'a/b', 'a b', 'x'.repeat(64)])
    expect(() => registry.freeName(name)).toThrow(code('USAGE'));
});

test('keys are made once a peer, whatever copy of the cell asks, and outlive the agent', async () => {
  const { directory, registry, cell } = await withCell();
  const [first, second] = [registry.keysWith(cell, '10.77.4.2'), registry.keysWith(cell, '10.77.5.2')];
  expect(first.publicKey).not.toEqual(second.publicKey);
  expect(registry.keysWith(cell, '10.77.4.2')).toBe(first);
  first.last = 3;
  registry.save(cell.id);
  const [adopted] = new Registry(directory).all();
  expect(adopted?.peers).toMatchObject([
    { address: '10.77.4.2', epoch: 0, last: 3, publicKey: first.publicKey, secretKey: first.secretKey },
    { address: '10.77.5.2', publicKey: second.publicKey },
  ]);
});

test('a tentative cell keeps its keys too, in memory only', async () => {
  const directory = temporaryDirectory();
  const registry = new Registry(directory);
  const { pid } = await startProcess();
  const cell = registry.resolve(String(pid));
  const keys = ['10.77.4.2', '10.77.5.2'].map((address) => registry.keysWith(cell, address));
  expect(registry.get(cell.id)?.peers).toEqual(keys);
  expect(new Registry(directory).all()).toEqual([]);
});

test('keys that were renewed in vain come back, also after a restart', async () => {
  const { directory, registry, cell } = await withCell();
  const known = {
    ...registry.keysWith(cell, '10.77.4.2'),
    epoch: 3,
    peerPublicKey: new Uint8Array(32).fill(1),
  };
  registry.restoreKeys(cell, known);
  const other = registry.keysWith(cell, '10.77.5.2');
  const renewed = registry.renewKeys(cell, '10.77.4.2');
  expect(renewed).toMatchObject({ epoch: 0, peerPublicKey: undefined });
  expect(registry.keysWith(cell, '10.77.4.2')).toBe(renewed);
  registry.restoreKeys(cell, known);
  expect(registry.keysWith(cell, '10.77.4.2')).toBe(known);
  expect(registry.keysWith(cell, '10.77.5.2')).toBe(other);
  const [adopted] = new Registry(directory).all();
  expect(adopted?.peers).toContainEqual(known);
});

test("a name that is held is nobody else's, until it is let go", () => {
  const registry = new Registry(temporaryDirectory());
  const release = registry.holdName('web');
  expect(() => registry.holdName('web')).toThrow('on this host already');
  expect(() => registry.freeName('web')).toThrow('on this host already');
  release();
  expect(registry.freeName('web')).toBe('web');
});
