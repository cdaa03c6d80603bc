/** `osmosis agent --metrics`: GET /metrics over HTTP, and nothing else. No TLS and no log-in: it is for loopback, or a network of one's own. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { isIP } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf, OsmosisError } from '../error.ts';
import { UnderWay } from '../under-way.ts';
import { CONTENT_TYPE } from './metrics.ts';

const LOOPBACK = '127.0.0.1';
const PATH = '/metrics';
/** Prometheus, a person with curl, and some that hang. */
const CONNECTIONS_MAX = 16;
const HEADER_BYTES_MAX = 8 * 1024;
/** A request is there, and its answer taken, within this. */
const REQUEST_MS_MAX = 5_000;
const CHECK_MS = 1_000;
/** An address may come only after the agent has started. */
const RETRY_MS = 10_000;

export type MetricsAddress = { readonly host: string; readonly port: number };
type Log = { info(fields: object, message: string): void; error(fields: object, message: string): void };

/** `PORT` (of loopback), `ADDRESS:PORT`, `[IPV6]:PORT`. @throws OsmosisError USAGE */
export function parseMetricsAddress(text: string): MetricsAddress {
  const parts = /^(?:(?:\[([^\]]+)\]|([^:]*)):)?(\d{1,5})$/.exec(text);
  const host = parts?.[1] ?? (parts?.[2] || LOOPBACK);
  const port = Number(parts?.[3]);
  if (parts === null || isIP(host) === 0 || port < 1 || port > 65_535)
    throw new OsmosisError(
      'USAGE',
      `--metrics ${text}: PORT (of ${LOOPBACK}), ADDRESS:PORT or [IPV6]:PORT, where the agent serves its metrics`,
    );
  return { host, port };
}

/**
 * Serves until `signal` fires. Where it can't listen it says so and tries again: the agent is worth more than its metrics.
 * @param text all metrics, in Prometheus' format
 */
export async function serveMetrics(
  { host, port }: MetricsAddress,
  text: () => Promise<string>,
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  const server = metricsServer(text);
  signal.addEventListener('abort', () => {
    server.close();
    server.closeAllConnections();
  });
  while (!signal.aborted) {
    try {
      server.listen(port, host);
      await once(server, 'listening', { signal });
      log.info({ address: host, port }, 'metrics are served');
      return;
    } catch (error) {
      if (signal.aborted) return;
      log.error(
        { address: host, port, error: messageOf(error) },
        'metrics can not be served; it is tried again',
      );
      await sleep(RETRY_MS, undefined, { signal, ref: false }).catch(() => undefined);
    }
  }
}

export function metricsServer(text: () => Promise<string>): Server {
  // Asking often costs no more than asking once.
  const underWay = new UnderWay<string>();
  const shared = () => underWay.join(PATH, text);
  const limits = {
    maxHeaderSize: HEADER_BYTES_MAX,
    headersTimeout: REQUEST_MS_MAX,
    requestTimeout: REQUEST_MS_MAX,
    keepAliveTimeout: REQUEST_MS_MAX,
    connectionsCheckingInterval: CHECK_MS,
  };
  const server = createServer(limits, (request, response) => {
    response.setTimeout(REQUEST_MS_MAX, () => response.destroy());
    void answer(request, response, shared);
  });
  server.maxConnections = CONNECTIONS_MAX;
  return server;
}

async function answer(
  { method, url }: IncomingMessage,
  response: ServerResponse,
  text: () => Promise<string>,
): Promise<void> {
  const path = url?.split('?')[0];
  if (path !== PATH) return say(response, 404, 'there is only /metrics here\n');
  if (method !== 'GET' && method !== 'HEAD') {
    response.setHeader('Allow', 'GET, HEAD');
    return say(response, 405, 'only GET\n');
  }
  try {
    const body = await text();
    response.setHeader('Content-Type', CONTENT_TYPE);
    say(response, 200, body);
  } catch (error) {
    say(response, 500, `the metrics could not be gathered: ${messageOf(error)}\n`);
  }
}

/** The connection is not kept where the request may have a body that nobody wants. */
function say(response: ServerResponse, status: number, body: string): void {
  if (status !== 200) response.setHeader('Connection', 'close');
  if (!response.hasHeader('Content-Type')) response.setHeader('Content-Type', 'text/plain; charset=utf-8');
  response.writeHead(status).end(body);
}
