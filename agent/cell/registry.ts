/** The cells of this host: those that moved in or were started by `osmosis run`, and processes about to be adopted. */
import { randomBytes } from 'node:crypto';
import type { Placement } from '../control/drain-protocol.ts';
import type { Label } from '../control/protocol.ts';
import type { Terminal } from '../control/terminal-protocol.ts';
import type { LocalHalf } from '../datapath/model.ts';
import { OsmosisError } from '../error.ts';
import type { HeldReceipts } from '../h2o/shown-receipt.ts';
import { isAlive, processStatus, startTicks } from '../proc/tree.ts';
import { Store } from '../state/store.ts';
import { generateKeyPair } from '../wire/h2o-session.ts';
import type { Forwarding } from './forwarding.ts';
import type { CellInit, CellLink } from './namespaces.ts';
import type { KnownFlow } from './new-flows.ts';
import type { Publication } from './publication.ts';

/** Processes that somebody looked at and that may become cells; the oldest is forgotten beyond this. */
const TENTATIVE_MAX = 64;
/** What a cell may be called: safe in a file name, a command line and a table. */
const CELL_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

/** H2O keys of a cell with one peer host. */
export type PeerKeys = {
  readonly address: string;
  /** Of the MOVE that announced these keys; 0 for keys of a first HELLO. */
  epoch: number;
  /** The highest epoch of any sealed message so far: the next one takes the one after. */
  last: number;
  secretKey: Uint8Array;
  publicKey: Uint8Array;
  peerPublicKey: Uint8Array | undefined;
  /** That the peer has sent for these keys. */
  receipts?: HeldReceipts;
};

/** A flow of a cell that has moved, with its own end's place at this host. */
export type CellFlow = LocalHalf & { readonly relayed?: boolean | undefined };

export type Cell = {
  readonly id: string;
  readonly name: string;
  /** Root process, as a host pid, and its start: a pid alone may be somebody else's later. */
  readonly pid: number;
  readonly ticks: number;
  /** Of its own PID and mount namespaces; undefined: it lives in the host's. */
  readonly init: CellInit | undefined;
  /** Of its own network namespace; undefined: it uses the host's network directly. */
  readonly link: CellLink | undefined;
  readonly addresses: readonly string[];
  /** Its side in the datapath, 0 while it needs none. */
  readonly side: number;
  readonly labels: readonly Label[];
  /** Empty while it uses the host's network: its flows are as they always were. */
  readonly flows: readonly CellFlow[];
  readonly peers: readonly PeerKeys[];
  /** New flows to its old endpoints follow it. */
  readonly forwarding?: Forwarding | undefined;
  /** Flows whose other ends take our endpoint for another one than it is; kept at home as well. */
  readonly known?: readonly KnownFlow[];
  /** Endpoints of this host at which anybody reaches its listeners. */
  readonly published?: readonly Publication[];
  /** False: its connections are not kept when this host changes its address (`osmosis keep --end`). */
  readonly kept?: boolean;
  /** Where it may be placed, beside which others; goes with it. */
  readonly placement?: Placement;
  /** Its root is a terminal server (agent/terminal/tmux.ts), and its program is below that. */
  readonly terminal?: Terminal;
};

export class Registry {
  readonly #store: Store<Cell>;
  readonly #cells = new Map<string, Cell>();
  readonly #tentative = new Map<string, Cell>();
  readonly #busy = new Set<string>();
  /** Of cells that are being started. */
  readonly #heldNames = new Set<string>();

  constructor(directory: string) {
    this.#store = new Store(directory);
    for (const cell of this.#store.all()) this.#cells.set(cell.id, cell);
  }

  all(): Cell[] {
    return [...this.#cells.values()];
  }

  get(id: string): Cell | undefined {
    return this.#cells.get(id) ?? this.#tentative.get(id);
  }

  isRegistered(id: string): boolean {
    return this.#cells.has(id);
  }

  put(cell: Cell): void {
    this.#tentative.delete(cell.id);
    this.#cells.set(cell.id, cell);
    this.#store.put(cell.id, cell);
  }

  remove(id: string): void {
    this.#cells.delete(id);
    this.#tentative.delete(id);
    this.#store.remove(id);
  }

  /**
   * The cell called `target`, that holds the process `target`, or a new one around that process (tree).
   * @throws OsmosisError NO_SUCH_TARGET
   */
  resolve(target: string, name?: string): Cell {
    const named = this.all().find((cell) => cell.name === target || cell.id === target);
    if (named !== undefined) return this.#alive(named);
    const pid = /^[1-9]\d{0,9}$/.test(target) ? Number(target) : undefined;
    if (pid === undefined || !isAlive(pid)) {
      const what = pid === undefined ? `no cell is called ${target}` : `there is no process ${target}`;
      throw new OsmosisError(
        'NO_SUCH_TARGET',
        `${what} on this host; nothing was touched. See osmosis ps, or give a pid.`,
        { phase: 'plan' },
      );
    }
    return this.#cellAround(pid) ?? this.#adopt(pid, name);
  }

  /** @throws OsmosisError BUSY while another migration holds the cell. */
  lock(id: string): void {
    this.checkFree(id);
    this.#busy.add(id);
  }

  /** @throws OsmosisError BUSY while a migration holds the cell. */
  checkFree(id: string): void {
    if (this.#busy.has(id)) {
      const name = this.get(id)?.name ?? id;
      throw new OsmosisError(
        'BUSY',
        `the cell ${name} is being moved already; wait until that migration has ended`,
        { phase: 'plan' },
      );
    }
  }

  isLocked(id: string): boolean {
    return this.#busy.has(id);
  }

  unlock(id: string): void {
    this.#busy.delete(id);
  }

  #alive(cell: Cell): Cell {
    if (isAlive(cell.pid) && startTicks(cell.pid) === cell.ticks) return cell;
    throw new OsmosisError(
      'NO_SUCH_TARGET',
      `the process of cell ${cell.name} has ended; nothing was touched`,
      { phase: 'plan' },
    );
  }

  #cellAround(pid: number): Cell | undefined {
    const candidates = [...this.all(), ...this.#tentative.values()].filter(
      (cell) => startTicks(cell.pid) === cell.ticks,
    );
    for (let at: number | undefined = pid; at !== undefined && at > 1; at = processStatus(at)?.parent) {
      const found = candidates.find((cell) => cell.pid === at);
      // A process below an adopted root is not that cell: it was named on its own.
      if (found !== undefined && (at === pid || this.#cells.has(found.id))) return found;
    }
    return undefined;
  }

  #adopt(pid: number, name: string | undefined): Cell {
    const id = randomBytes(16).toString('hex');
    const command = (processStatus(pid)?.name ?? 'cell').replace(/[^A-Za-z0-9._-]/g, '-');
    const cell: Cell = {
      id,
      name: this.freeName(name ?? `${command.replace(/^[^A-Za-z0-9]+/, '') || 'cell'}-${id.slice(0, 4)}`),
      pid,
      ticks: startTicks(pid) ?? 0,
      init: undefined,
      link: undefined,
      addresses: [],
      side: 0,
      labels: [],
      flows: [],
      peers: [],
    };
    const oldest = this.#tentative.keys().next().value;
    if (this.#tentative.size >= TENTATIVE_MAX && oldest !== undefined) this.#tentative.delete(oldest);
    this.#tentative.set(id, cell);
    return cell;
  }

  /** @throws OsmosisError USAGE where the name is taken or can't be one. */
  freeName(name: string): string {
    if (!CELL_NAME.test(name))
      throw new OsmosisError(
        'USAGE',
        `a cell can't be called ${JSON.stringify(name)}: letters, digits, . _ - (63 at most)`,
      );
    if (this.#heldNames.has(name) || this.all().some((cell) => cell.name === name))
      throw new OsmosisError('USAGE', `a cell called ${name} is on this host already`);
    return name;
  }

  /** Nobody else gets it until the returned function is called: the cell has it then, or there is none. @throws as freeName */
  holdName(name: string): () => void {
    this.#heldNames.add(this.freeName(name));
    return () => void this.#heldNames.delete(name);
  }

  /** The keys of `cell` with the peer at `address`; made when first asked for. */
  keysWith(cell: Cell, address: string): PeerKeys {
    // The caller's copy may be older than the keys that were made for another peer since.
    const current = this.get(cell.id) ?? cell;
    const known = current.peers.find((peer) => peer.address === address);
    if (known !== undefined) return known;
    const keys: PeerKeys = { address, epoch: 0, last: 0, ...generateKeyPair(), peerPublicKey: undefined };
    const next = { ...current, peers: [...current.peers, keys] };
    if (this.#cells.has(cell.id)) this.put(next);
    else this.#tentative.set(cell.id, next);
    return keys;
  }

  /** The peer knows the cell no more: both begin anew, as at first contact. */
  renewKeys(cell: Cell, address: string): PeerKeys {
    const current = this.get(cell.id) ?? cell;
    const next = { ...current, peers: current.peers.filter((peer) => peer.address !== address) };
    if (this.#cells.has(cell.id)) this.put(next);
    else this.#tentative.set(cell.id, next);
    return this.keysWith(next, address);
  }

  /** The agent that these keys are with is at another address now. */
  readdressKeys(cell: Cell, keys: PeerKeys, address: string): void {
    const current = this.get(cell.id) ?? cell;
    const others = current.peers.filter((peer) => peer.address !== keys.address && peer.address !== address);
    const next = { ...current, peers: [...others, { ...keys, address }] };
    if (this.#cells.has(cell.id)) this.put(next);
    else this.#tentative.set(cell.id, next);
  }

  /** The peer has not taken the new keys: those from before are good. */
  restoreKeys(cell: Cell, keys: PeerKeys): void {
    const current = this.get(cell.id) ?? cell;
    const others = current.peers.filter(({ address }) => address !== keys.address);
    const next = { ...current, peers: [...others, keys] };
    if (this.#cells.has(cell.id)) this.put(next);
    else this.#tentative.set(cell.id, next);
  }

  /** Writes down what was changed in a cell's keys: an epoch must never be used twice. */
  save(id: string): void {
    const cell = this.#cells.get(id);
    if (cell !== undefined) this.#store.put(id, cell);
  }
}
