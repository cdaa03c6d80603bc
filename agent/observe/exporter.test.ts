import { once } from 'node:events';
import { type AddressInfo, connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test, vi } from 'vitest';
import { metricsServer, parseMetricsAddress, serveMetrics } from './exporter.ts';

async function served(text: () => Promise<string>): Promise<string> {
  const server = metricsServer(text).listen(0, '127.0.0.1');
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  await once(server, 'listening');
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

test('an address is a port of loopback, or says which', () => {
  expect(parseMetricsAddress('9818')).toEqual({ host: '127.0.0.1', port: 9818 });
  expect(parseMetricsAddress(':9818')).toEqual({ host: '127.0.0.1', port: 9818 });
  expect(parseMetricsAddress('10.77.1.2:9818')).toEqual({ host: '10.77.1.2', port: 9818 });
  expect(parseMetricsAddress('[fd77::1]:9818')).toEqual({ host: 'fd77::1', port: 9818 });
  for (const bad of ['', '0', '65536', 'host:9818', '10.77.1.2', 'fd77::1:9818', '[x]:1', '127.0.0.1:9818/x'])
    expect(() => parseMetricsAddress(bad), bad).toThrow(/--metrics/);
});

test('GET /metrics has the text, and nothing else is there', async () => {
  const at = await served(async () => 'osmosis_up 1\n');
  const good = await fetch(`${at}/metrics`);
  expect([good.status, await good.text()]).toEqual([200, 'osmosis_up 1\n']);
  expect(good.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/);
  expect((await fetch(`${at}/metrics?name=x`)).status).toBe(200);
  expect((await fetch(`${at}/`)).status).toBe(404);
  const posted = await fetch(`${at}/metrics`, { method: 'POST', body: 'x'.repeat(100_000) });
  expect([posted.status, posted.headers.get('allow')]).toEqual([405, 'GET, HEAD']);
});

test('a failure is told, and the next request is answered', async () => {
  const text = vi
    .fn<() => Promise<string>>()
    .mockRejectedValueOnce(new Error('no room'))
    .mockResolvedValue('a 1\n');
  const at = await served(text);
  const bad = await fetch(`${at}/metrics`);
  expect([bad.status, await bad.text()]).toEqual([500, 'the metrics could not be gathered: no room\n']);
  expect((await fetch(`${at}/metrics`)).status).toBe(200);
});

test('whoever asks at the same time shares one look', async () => {
  const text = vi.fn(async () => {
    await sleep(200);
    return 'a 1\n';
  });
  const at = await served(text);
  const all = await Promise.all(Array.from({ length: 8 }, () => fetch(`${at}/metrics`)));
  expect(all.map(({ status }) => status)).toEqual(Array(8).fill(200));
  expect(text).toHaveBeenCalledTimes(1);
});

test('what is not HTTP, or too long, is answered and cut off', async () => {
  const at = new URL(await served(async () => 'a 1\n'));
  for (const [said, status] of [
    ['not http\r\n\r\n', /^HTTP\/1\.1 400 /],
    [`GET /metrics HTTP/1.1\r\nX: ${'y'.repeat(20_000)}\r\n\r\n`, /^HTTP\/1\.1 431 /],
  ] as const) {
    const socket = connect(Number(at.port), at.hostname);
    let got = '';
    socket.on('data', (chunk: Buffer) => {
      got += chunk.toString();
    });
    socket.on('error', () => undefined);
    socket.write(said);
    await once(socket, 'close');
    expect(got).toMatch(status);
  }
});

test('an address that can not be had is told, and keeps nobody from anything', async () => {
  const log = { info: vi.fn(), error: vi.fn() };
  const stop = new AbortController();
  // Documentation addresses (RFC 5737) are nobody's.
  const serving = serveMetrics({ host: '192.0.2.1', port: 9_818 }, async () => '', log, stop.signal);
  await vi.waitFor(() => expect(log.error).toHaveBeenCalledOnce());
  stop.abort();
  await serving;
  expect(log.info).not.toHaveBeenCalled();
});
