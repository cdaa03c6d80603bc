/** What the parts of one agent share. Made once in main.ts, released there. */
import type { Logger } from 'pino';
import type { Labels } from './cell/labels.ts';
import type { Openings } from './cell/openings.ts';
import type { Registry } from './cell/registry.ts';
import type { Datapath } from './datapath/datapath.ts';
import type { PeerSide } from './h2o/peer-side.ts';
import type { H2oSocket } from './h2o/socket.ts';
import type { Cordon } from './host/cordon.ts';
import type { KeptAddresses } from './host-move/kept-addresses.ts';
import type { Byes } from './migration/bye.ts';
import type { Journal } from './observe/journal.ts';
import type { Syncs } from './sync/syncs.ts';
import type { Terminals } from './terminal/terminals.ts';
import type { Trust } from './trust/trust.ts';

export type AgentPaths = {
  /** tmpfs: socket, images, state that ends with the kernel's. 0700. */
  readonly run: string;
  /** Disk: decisions, which must outlive a crash of the host, and whom to trust. 0700. */
  readonly state: string;
};

export type AgentContext = {
  readonly paths: AgentPaths;
  readonly socket: H2oSocket;
  /** Who this agent is, and whom it believes. */
  readonly trust: Trust;
  readonly datapath: Datapath;
  /** What peers are told of moves that won't happen, and of cells that have ended. */
  readonly byes: Byes;
  /** What this host does for cells of other hosts. */
  readonly peerSide: PeerSide;
  readonly registry: Registry;
  readonly labels: Labels;
  /** What moved cells are open to beyond the flows that they came with. */
  readonly openings: Openings;
  /** Addresses that sockets are bound to, whether this host has them or not. */
  readonly kept: KeptAddresses;
  /** Whether cells may be placed here. */
  readonly cordon: Cordon;
  /** Of cells that have one: who is attached to it. */
  readonly terminals: Terminals;
  /** Files that are being copied from or to here. */
  readonly syncs: Syncs;
  readonly log: Logger;
  /** Is told what becomes of each migration. */
  readonly journal: Journal;
};

export function imageDirectory({ paths }: AgentContext, migration: string): string {
  return `${paths.run}/images/${migration}`;
}

export function decisionDirectory({ paths }: AgentContext): string {
  return `${paths.state}/decisions`;
}
