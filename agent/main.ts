/** `osmosis agent`: the daemon of one host. Owns the socket, the H2O port, the cells and the datapath. */

import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync } from 'node:fs';
import { flushCompileCache } from 'node:module';
import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';
import { Forwarder } from './cell/forwarder.ts';
import { CellKeeper } from './cell/keeper.ts';
import { Labels } from './cell/labels.ts';
import { writeIoUringFilter } from './cell/movable.ts';
import { adoptNewFlows } from './cell/new-flows.ts';
import { Openings } from './cell/openings.ts';
import { Registry } from './cell/registry.ts';
import type { AgentContext, AgentPaths } from './context.ts';
import { serveControl } from './control/server.ts';
import { Datapath } from './datapath/datapath.ts';
import { sweepSocketPrograms } from './datapath/socket-programs.ts';
import { messageOf, OsmosisError } from './error.ts';
import { PeerSide } from './h2o/peer-side.ts';
import { H2oSocket } from './h2o/socket.ts';
import { createHandlers } from './handlers.ts';
import { Cordon } from './host/cordon.ts';
import { HostMoves } from './host-move/host-moves.ts';
import { KeptAddresses } from './host-move/kept-addresses.ts';
import { Byes } from './migration/bye.ts';
import { Coordinator } from './migration/coordinator.ts';
import { type MetricsAddress, parseMetricsAddress, serveMetrics } from './observe/exporter.ts';
import { familiesOf, lookedUp } from './observe/gathered.ts';
import { Journal } from './observe/journal.ts';
import { type LogOptions, makeLog } from './observe/log.ts';
import { Metrics } from './observe/metrics.ts';
import { watched } from './observe/watched.ts';
import { Syncs } from './sync/syncs.ts';
import { Terminals } from './terminal/terminals.ts';
import { Trust } from './trust/trust.ts';

export const DEFAULT_PATHS: AgentPaths = { run: '/run/osmosis', state: '/var/lib/osmosis' };

export function socketPath({ run }: AgentPaths): string {
  return `${run}/agent.sock`;
}

export type AgentOptions = {
  readonly log: LogOptions;
  /** Where metrics are served over HTTP; undefined: nowhere. */
  readonly metrics: MetricsAddress | undefined;
};

/** As the command line has them. @throws OsmosisError USAGE */
export function agentOptions(options: {
  readonly metrics?: string;
  readonly logFormat: LogOptions['format'];
  readonly logLevel: LogOptions['level'];
}): AgentOptions {
  const { metrics, logFormat: format, logLevel: level } = options;
  // An empty variable of an environment file means the same as none.
  return { log: { format, level }, metrics: metrics ? parseMetricsAddress(metrics) : undefined };
}

/** Runs until SIGTERM or SIGINT. Moved connections go on without it: everything that they need is in the kernel. */
export async function runAgent(paths: AgentPaths, options: AgentOptions): Promise<void> {
  if (process.getuid?.() !== 0) throw new OsmosisError('USAGE', 'the agent must run as root');
  for (const directory of [paths.run, paths.state]) mkdirSync(directory, { recursive: true, mode: 0o700 });
  await refuseSecond(socketPath(paths));
  const log = makeLog(options.log);
  const objectFile = fileURLToPath(new URL('./datapath/osmosis.bpf.o', import.meta.url));
  if (!existsSync(objectFile))
    throw new OsmosisError('DATAPATH', `${objectFile} is missing: npm run build:bpf makes it`);

  const datapath = await Datapath.open({
    pinDir: `${paths.run}/bpf`,
    objectFile,
    firstDraw: () => randomInt(2 ** 31),
    log: (message) => log.info(message),
  });
  const registry = new Registry(`${paths.run}/cells`);
  const labels = new Labels(
    registry
      .all()
      .flatMap((cell) => cell.labels.map(({ protocol, wire }) => ({ protocol, port: wire.port }))),
  );
  const trust = Trust.open(`${paths.state}/trust`, log);
  const socket = new H2oSocket((error) =>
    log.warn({ error: messageOf(error) }, 'a datagram could not be served'),
  );
  const peerSide = new PeerSide(socket, trust, datapath, `${paths.run}/peers`, registry, labels, log);
  const openings = new Openings({ datapath, labels, registry, log });
  const kept = new KeptAddresses(`${paths.run}/kept`, log);
  const byes = new Byes(socket, `${paths.run}/byes`);
  const cordon = new Cordon(`${paths.state}/cordon.json`);
  const syncs = new Syncs(`${paths.state}/syncs`, log);
  const terminals = new Terminals(paths.run, registry);
  const moving = { byes, datapath, peerSide, registry, labels, openings };
  const metrics = new Metrics();
  const parts = { ...moving, cordon, kept, syncs, terminals, journal: new Journal(log, metrics) };
  const context: AgentContext = { paths, socket, trust, ...parts, log };
  const forwarder = new Forwarder(context);
  const hostMoves = new HostMoves(context, (cell) => forwarder.retell(cell));
  const coordinator = new Coordinator(context, hostMoves);
  const keeper = new CellKeeper(context, (cell, flows) => forwarder.ended(cell, flows));

  writeIoUringFilter(paths.run);
  await sweepSocketPrograms();
  await socket.open();
  peerSide.start(
    (id) => coordinator.isLeaving(id),
    async () => {
      for (const cell of registry.all()) await adoptNewFlows(context, cell);
    },
  );
  byes.recover();
  syncs.load();
  await coordinator.recover();
  await syncs.recover(coordinator.arriving);
  await openings.recover();
  keeper.start();
  forwarder.start();
  hostMoves.start();
  const metricsText = async () => metrics.text(familiesOf(await lookedUp(context)));
  const handlers = createHandlers(context, coordinator, forwarder, hostMoves, metricsText);
  const server = await serveControl(socketPath(paths), watched(handlers, context.journal), log);
  const stop = new AbortController();
  if (options.metrics !== undefined) void serveMetrics(options.metrics, metricsText, log, stop.signal);
  log.info(
    { socket: socketPath(paths), identity: trust.fingerprint, cells: registry.all().length },
    'agent ready',
  );
  // It may be killed before it could be kept.
  flushCompileCache();

  await Promise.race([once(process, 'SIGTERM'), once(process, 'SIGINT')]);
  log.info('agent stops; moved connections go on');
  keeper.stop();
  forwarder.stop();
  await hostMoves.stop();
  coordinator.stop();
  server.close();
  stop.abort();
  await peerSide.stop();
  trust.known.flush();
  await socket.close();
  await datapath.close();
  process.exit(0);
}

async function refuseSecond(path: string): Promise<void> {
  const probe = connect(path);
  try {
    await once(probe, 'connect');
  } catch {
    return;
  } finally {
    probe.destroy();
  }
  throw new OsmosisError('BUSY', `an agent is running already and answers at ${path}`);
}
