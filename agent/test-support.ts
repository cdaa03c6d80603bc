/** What unit tests share; nothing of the product imports it. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished, vi } from 'vitest';
import type { Flow, PlacedFlow } from './address.ts';
import type { HostFacts, Snapshot } from './control/protocol.ts';
import { KnownIdentities } from './trust/known-identities.ts';
import { Trust } from './trust/trust.ts';
import { identityOf, newIdentitySeed } from './wire/h2o-identity.ts';

const LOOPBACK = '127.0.0.1';

/** A directory of this test's own, gone when the test is over. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'osmosis-test-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** An agent's identity, and whom it knows: nobody yet. */
export function trustOf(log = { warn: vi.fn() }): Trust {
  const known = new KnownIdentities(join(temporaryDirectory(), 'known.json'), log);
  // Before its directory goes.
  onTestFinished(() => known.flush());
  return new Trust(identityOf(newIdentitySeed()), known, log);
}

/** Connections of this process with a server of this process, at `address`, as the server's side sees them. */
export async function connectedFlows(count: number, address = LOOPBACK): Promise<Flow[]> {
  const server = createServer().listen(0, address);
  onTestFinished(() => void server.close());
  await once(server, 'listening');
  const local = { address, port: (server.address() as AddressInfo).port };
  const clients = Array.from({ length: count }, () => connect(local.port, address));
  onTestFinished(() => clients.forEach((client) => void client.destroy()));
  await Promise.all(clients.map((client) => once(client, 'connect')));
  return clients.map(({ localPort = 0 }) => ({
    protocol: 'tcp',
    local,
    remote: { address: LOOPBACK, port: localPort },
  }));
}

/** Until `check` no longer throws; patient, for processes start slowly on a busy machine. */
export function eventually<T>(check: () => T | Promise<T>): Promise<T> {
  return vi.waitFor(check, { timeout: 4_000, interval: 10 });
}

/** A connection of the cell at 10.77.1.2:7000 with port `port` of the peer at `peer`, as the cell sees it. */
export function flowWith(port: number, peer = '10.77.4.2'): PlacedFlow {
  return {
    protocol: 'tcp',
    local: { address: '10.77.1.2', port: 7000 },
    remote: { address: peer, port },
    at: { address: peer, port },
  };
}

export function hostFactsWith(changes: Partial<HostFacts> = {}): HostFacts {
  return {
    hostname: 'alpha',
    machine_id: 'alpha',
    kernel: '6.18.5',
    arch: 'x64',
    cpu_flags: ['avx', 'sse2'],
    congestion: ['reno', 'cubic'],
    criu: '4.2.1',
    room_bytes: 1024 ** 3,
    load: 0.5,
    cpus: 2,
    ...changes,
  };
}

export function snapshotWith(changes: Partial<Snapshot> = {}): Snapshot {
  return {
    cell: 'c0'.repeat(16),
    name: 'server',
    pid: 100,
    home: true,
    host: hostFactsWith(),
    agent_addresses: ['10.77.1.2'],
    processes: [{ pid: 100, inner_pid: 100, command: 'server', uid: 0, resident_bytes: 4096 }],
    flows: [flowWith(51_000)],
    dropped: [],
    listeners: [{ protocol: 'tcp', address: '10.77.1.2', port: 7000 }],
    addresses: ['10.77.1.2'],
    files: [],
    socket_options: [],
    outside: [],
    image_bytes: 4096,
    checks: [],
    ...changes,
  };
}
