/** Every method of the control channel, against one agent's context. A method without a handler does not compile. */
import { hostname } from 'node:os';
import { type Flow, flowKey, knownFlow, type PlacedFlow } from './address.ts';
import { type Forwarder, forward } from './cell/forwarder.ts';
import { adoptNewFlows } from './cell/new-flows.ts';
import type { Cell } from './cell/registry.ts';
import { endRelayedSockets } from './cell/relayed.ts';
import { runCell } from './cell/run.ts';
import { trafficOf } from './cell/traffic.ts';
import type { AgentContext } from './context.ts';
import type { PeerFact, Snapshot } from './control/protocol.ts';
import { imageSummarySchema } from './control/protocol.ts';
import type { Call, Handlers } from './control/server.ts';
import { OsmosisError } from './error.ts';
import { aboutOf, sayHello } from './h2o/cell-side.ts';
import type { PeerSide } from './h2o/peer-side.ts';
import { cordonHandlers } from './host/cordon-handlers.ts';
import { hostFacts } from './host/facts.ts';
import { preflightChecks } from './host/preflight.ts';
import { reachHandlers } from './host/reach.ts';
import { ownAddresses } from './host/routes.ts';
import type { HostMoves } from './host-move/host-moves.ts';
import { keep } from './host-move/keep.ts';
import { claim, giveUp, refuseRunning, verdictOf } from './migration/claim.ts';
import type { Coordinator } from './migration/coordinator.ts';
import { LEARN_MS, learnFlows, withFlows } from './migration/datagrams.ts';
import { plannedForwarding } from './migration/forwarding.ts';
import { isComingHome } from './migration/homecoming.ts';
import { askWithOlderKeys } from './migration/older-keys.ts';
import { flowIds, placeFlows, withSources } from './migration/placed.ts';
import { arrivingPublications, changePublished, publishChecks } from './migration/published.ts';
import { unaskedPeers } from './migration/unasked.ts';
import { CONTENT_TYPE } from './observe/metrics.ts';
import { fileFact } from './proc/files.ts';
import { inspectTree, type Tree } from './proc/inspect.ts';
import { childrenOf, commandLine } from './proc/tree.ts';
import { syncHandlers } from './sync/handlers.ts';
import { terminalHandlers } from './terminal/handlers.ts';
import { trustHandlers } from './trust/handlers.ts';
import { VERSION } from './version.ts';
import { packPiece } from './wire/compression.ts';
import { decodeMessage } from './wire/frame.ts';
import { sharedSecretCount } from './wire/h2o-session.ts';
import { ImageTally } from './wire/image.ts';

export function createHandlers(
  context: AgentContext,
  coordinator: Coordinator,
  forwarder: Forwarder,
  hostMoves: HostMoves,
  metricsText: () => Promise<string>,
): Handlers {
  const { registry, datapath, peerSide, paths, cordon } = context;

  const snapshotOf = async (
    cell: Cell,
    tree: Omit<Tree, 'flows'> & {
      flows: PlacedFlow[];
      dropped: PlacedFlow[];
      forwarding?: NonNullable<Snapshot['forwarding']>;
    },
  ): Promise<Snapshot> => ({
    cell: cell.id,
    name: cell.name,
    pid: cell.pid,
    ...(cell.placement === undefined ? {} : { placement: cell.placement }),
    ...(cell.terminal && { terminal: cell.terminal }),
    home: cell.link === undefined,
    host: await hostFacts(paths.run),
    agent_addresses: await ownAddresses(),
    ...tree,
    // A moved cell owns its addresses whatever it still uses of them.
    addresses: [
      ...new Set([
        ...cell.addresses,
        ...tree.addresses,
        ...(tree.forwarding?.endpoints ?? []).map(({ address }) => address),
      ]),
    ],
  });

  return {
    status: async () => ({
      version: VERSION,
      host: await hostFacts(paths.run),
      ...(cordon.record === undefined ? {} : { cordon: cordon.record }),
      cells: registry.all().map((cell) => ({
        ...describeCell(cell, peerSide),
        ...(cell.forwarding && {
          forwarding: {
            ...cell.forwarding,
            endpoints: [...cell.forwarding.endpoints],
            peers: forwarder.told(cell.id),
          },
        }),
      })),
      remote_cells: peerSide.list(),
      h2o: {
        sent: context.socket.sent,
        received: context.socket.received,
        dropped: Object.fromEntries(context.socket.drops),
        shared_secrets: sharedSecretCount(),
      },
    }),
    traffic: async () => ({ cells: await trafficOf(registry) }),
    datapath: async () => datapath.entries(),
    run: async (params) => {
      const { cell, movable } = await runCell(context, params);
      return { cell: cell.name, id: cell.id, pid: cell.pid, ...movable };
    },
    'relay.end': async ({ cell, what, dry_run }) => ({
      ended:
        what === 'entries'
          ? await peerSide.endRelays(cell, dry_run)
          : await endRelayedSockets(registry, cell, dry_run),
    }),
    inspect: async ({ target, name, learn_ms = LEARN_MS, forward_lease_s }, { signal }) => {
      const resolved = registry.resolve(target, name);
      registry.checkFree(resolved.id);
      hostMoves.checkSettled(resolved.id);
      const found = await inspectTree(resolved.pid, { served: resolved.terminal !== undefined });
      const cell = await adoptNewFlows(context, resolved);
      const tree = withFlows(found, await learnFlows(context, cell, found, learn_ms, signal));
      const flows = await placeFlows(datapath, cell, tree.flows);
      const peers = flows.map(({ at }) => at.address);
      const { checks, ...planned } = await plannedForwarding(cell, tree, peers, forward_lease_s);
      const all = [...tree.checks, ...checks];
      return snapshotOf(cell, { ...tree, flows, dropped: [], ...planned, checks: all });
    },
    survey: async ({ cell: id, flows, stays = false }, { signal }) => {
      const cell = registry.get(id);
      if (cell === undefined)
        throw new OsmosisError('NO_SUCH_TARGET', 'the plan is too old: plan anew', { phase: 'plan' });
      const sourced = await withSources(datapath, cell, flows);
      const heldIds = stays ? [] : peerSide.heldAmong(flowIds(cell, flows));
      const isHeld = inSet(heldIds.map(flowKey));
      const { held = [], others = [] } = Object.groupBy(sourced, (flow) =>
        isHeld(flow) ? 'held' : 'others',
      );
      const byPeer = Map.groupBy(others, ({ at }) => at.address);
      const unasked = stays ? new Set() : await unaskedPeers(context, hostMoves, cell, flows);
      const peers = await Promise.all(
        [...byPeer].map(async ([address, its]) => {
          if (unasked.has(address)) {
            const peer = { address, agent: true, flows: its.length, relayed: 0, registered: true };
            return { peer, unknown: [] };
          }
          const keys = registry.keysWith(cell, address);
          const about = aboutOf(id, keys);
          const first = await sayHello(context, address, about, its, [], signal);
          keys.peerPublicKey = first.peerPublicKey ?? keys.peerPublicKey;
          const isStrange = !first.silent && first.peerPublicKey === undefined;
          const question = { peer: address, flows: its, inUse: new Set(byPeer.keys()) };
          const older = isStrange ? await askWithOlderKeys(context, cell, question, signal) : undefined;
          const { silent, claimable } = older ?? first;
          const relayed = its.filter((flow) => flow.relayed).length;
          const unknown = silent ? [] : its.filter((flow) => !claimable.has(flowKey(knownFlow(flow))));
          return { peer: { address, agent: !silent, flows: its.length, relayed }, unknown };
        }),
      );
      return {
        peers: [...peers.map(({ peer }) => peer), ...suspendedPeers(held)],
        unknown: peers.flatMap(({ unknown }) => unknown),
      };
    },
    keep: (params) => keep(context, hostMoves, params),
    publish: (params) => changePublished(context, params),
    preflight: async ({ snapshot, publish = [], sync = false }) => {
      const host = await hostFacts(paths.run);
      const home = isComingHome(snapshot, context);
      const published = await arrivingPublications(publish, snapshot, home);
      return {
        host,
        checks: [
          ...preflightChecks(snapshot, host, (path, kind) => fileFact('', path, kind), { sync }),
          ...publishChecks(published),
          ...cordon.checks(host.hostname),
        ],
        home,
        published: [...published.publications],
      };
    },
    forward: ({ target, ...wanted }) => forward(context, forwarder, registry.resolve(target), wanted),
    'source.prepare': async (
      { migration: id, cell, drop, relay, datagrams = [], forward_lease_s, key },
      { signal, gone },
    ) => {
      hostMoves.checkSettled(cell);
      const migration = coordinator.beginSource(id, cell, gone);
      coordinator.remember(migration);
      const tree = await migration.prepare({ key, drop, relay, datagrams, forward_lease_s }, signal);
      coordinator.remember(migration);
      return snapshotOf(migration.cell, tree);
    },
    'destination.prepare': async ({ migration: id, ...request }, { gone }) => {
      cordon.refuse(hostname());
      const migration = await coordinator.beginDestination(id, request, gone);
      const labels = await migration.prepare();
      return { labels, homes: migration.homes, published: [...migration.published] };
    },
    'source.arm': async ({ migration, labels, homes = [] }, { signal }) => {
      const source = coordinator.source(migration);
      try {
        return { refused: await source.arm(labels, homes, signal) };
      } finally {
        coordinator.remember(source);
      }
    },
    'source.stay': async ({ migration, udp }, { signal }) => {
      const source = coordinator.source(migration);
      try {
        await source.stay(signal, udp);
      } finally {
        coordinator.remember(source);
      }
      return {};
    },
    'source.freeze': async ({ migration }, { signal }) => {
      const source = coordinator.source(migration);
      const frozen = await source.freeze(signal);
      // A suspension has to be told to the peers even if this agent ends right after it was decided; and what suspended
      // cells say has to be passed on.
      if (source.suspends || frozen.held !== undefined) coordinator.remember(source);
      return frozen;
    },
    'image.read': async ({ migration }, call) => {
      const bytes = await sendImage(coordinator.source(migration).image(call.signal), call);
      context.journal.image('source', bytes);
      return {};
    },
    'image.write': async ({ migration }, call) => {
      const writer = coordinator.destination(migration).imageWriter();
      try {
        for await (const frame of call.frames()) {
          if (frame.kind === 'data') writer.writePacked(Buffer.from(frame.body));
          else {
            const { bytes } = writer.finish(imageSummarySchema.parse(decodeMessage(frame)));
            context.journal.image('destination', bytes);
            return { bytes };
          }
        }
      } finally {
        writer.close();
      }
      throw new OsmosisError(
        'IMAGE_CORRUPT',
        'the image stream ended early; the process goes on at the source. Try again.',
        { phase: 'freeze' },
      );
    },
    'destination.arm': async ({ migration, sessions }, { signal }) => {
      await coordinator.destination(migration).arm(sessions, signal);
      return {};
    },
    'destination.restore': async ({ migration, sessions, held = [] }, { signal }) => {
      const started = performance.now();
      await coordinator.destination(migration).restore(sessions, held, signal);
      return { restore_ms: performance.now() - started };
    },
    'source.commit': async ({ migration, to }) => {
      coordinator.source(migration).commit(to);
      return {};
    },
    'source.hold': async ({ migration }) => ({ silent: await coordinator.holdSource(migration) }),
    'resume.claim': async ({ cell, sessions }, { signal }) => {
      refuseRunning(registry, cell);
      return { peers: await claim(context, sessions, signal) };
    },
    'resume.discard': async ({ cell, sessions }) => ({ silent: await giveUp(context.byes, cell, sessions) }),
    'held.end': async ({ cell, dry_run }) => ({ ended: await peerSide.endHeld(cell, dry_run) }),
    'resume.verdict': async ({ migration, source }, { signal }) => ({
      verdict: await verdictOf(context.socket, migration, source, signal),
    }),
    'destination.commit': async ({ migration }) => {
      coordinator.destination(migration).commit();
      return {};
    },
    'destination.resume': async ({ migration }) => {
      const started = performance.now();
      await coordinator.destination(migration).resume();
      return { resume_ms: performance.now() - started };
    },
    'destination.confirm': ({ migration }) => coordinator.confirmDestination(migration),
    'source.confirm': async ({ migration }) => {
      await coordinator.confirmSource(migration);
      return {};
    },
    'source.abort': async ({ migration }) => ({ committed: await coordinator.abortSource(migration) }),
    'destination.abort': async ({ migration }) => {
      await coordinator.abortDestination(migration);
      return {};
    },
    metrics: async () => ({ content_type: CONTENT_TYPE, text: await metricsText() }),
    ...trustHandlers(context),
    ...cordonHandlers(context),
    ...reachHandlers(context),
    ...terminalHandlers(context),
    ...syncHandlers(context),
  };
}

function inSet(keys: readonly string[]): (flow: Flow) => boolean {
  const set = new Set(keys);
  return (flow) => set.has(flowKey(flow));
}

/** By where the processes at the other ends were: nobody is asked there. */
function suspendedPeers(flows: readonly PlacedFlow[]): PeerFact[] {
  return [...Map.groupBy(flows, ({ at }) => at.address)].map(([address, its]) => ({
    address,
    agent: true,
    flows: its.length,
    relayed: 0,
    suspended: true,
  }));
}

async function sendImage(
  pieces: AsyncIterable<{ piece: Buffer; names: readonly string[] }>,
  call: Call,
): Promise<number> {
  const tally = new ImageTally();
  for await (const { piece, names } of pieces) {
    tally.add(piece, names);
    await call.sendData(packPiece(piece));
  }
  const summary = tally.finish();
  call.sendEnd(summary);
  return summary.bytes;
}

function describeCell(cell: Cell, peerSide: PeerSide) {
  return {
    id: cell.id,
    name: cell.name,
    pid: cell.pid,
    command: commandLine(cell.terminal === undefined ? cell.pid : (childrenOf(cell.pid)[0] ?? cell.pid)),
    ...(cell.terminal && { terminal: cell.terminal }),
    placement: cell.placement ?? {},
    home: cell.link === undefined,
    flows: cell.flows.map((flow) => ({
      protocol: flow.protocol,
      virtual_local: flow.local,
      virtual_remote: flow.remote,
      wire_local: flow.wireLocal,
      ...(flow.relayed ? { by: peerSide.placeOf(flow)?.address } : {}),
    })),
    labels: cell.labels.map(({ protocol, virtual, peer, wire }) => ({ protocol, virtual, peer, wire })),
    peers: cell.peers.map(({ address, epoch }) => ({ address, epoch })),
    published: [...(cell.published ?? [])],
  };
}
