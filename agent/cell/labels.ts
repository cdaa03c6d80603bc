/**
 * Labels: the wire ports under which moved endpoints appear at this host. They come from a range that the host keeps out
 * of its own use (ip-sysctl: ip_local_reserved_ports) for as long as one of them is drawn, or rules are there by which the
 * datapath's programs draw some.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import type { Protocol } from '../address.ts';
import { OsmosisError } from '../error.ts';
import { inetSockets } from '../proc/sockets.ts';

const LABEL_FIRST = 40_000;
/** One label a virtual endpoint, not a flow: an outbound connection is an endpoint of its own. */
export const LABELS_MAX = 12_000;
/** The ports behind those, which the datapath's programs draw from for new flows: datapath/rules.ts. */
export const PROGRAM_LABELS = { first: LABEL_FIRST + LABELS_MAX, count: 6_000 } as const;
/** Of both: what is reserved. */
const RANGE = `${LABEL_FIRST}-${PROGRAM_LABELS.first + PROGRAM_LABELS.count - 1}`;
const SYSCTL = '/proc/sys/net/ipv4/ip_local_reserved_ports';

/** Whether a port is one that the agent draws: what is behind it is known to others by its virtual endpoint. */
export function isLabel(port: number): boolean {
  return port >= LABEL_FIRST && port < PROGRAM_LABELS.first;
}

/** Whether a port is one that the programs draw, for an endpoint that a cell opens itself. */
export function isProgramLabel(port: number): boolean {
  return port >= PROGRAM_LABELS.first && port < PROGRAM_LABELS.first + PROGRAM_LABELS.count;
}

/** Keeps the range reserved while `drawn` has labels or it is held, and gives it back with the last one. */
export class Labels {
  readonly #drawn = new Set<string>();
  /** Who else needs the range reserved: rules that the datapath's programs draw for. */
  readonly #holders = new Set<string>();
  /** A label that was just given back is drawn again last: its old peers may not have forgotten it yet. */
  #next = 0;

  /** `known`: labels of cells that were here before the agent's restart. */
  constructor(known: Iterable<{ protocol: Protocol; port: number }> = []) {
    this.take(known);
  }

  /** Labels that were drawn before the agent's restart. */
  take(known: Iterable<{ protocol: Protocol; port: number }>): void {
    for (const { protocol, port } of known) this.#drawn.add(`${protocol} ${port}`);
  }

  /** How many of them are in use, of both protocols together. */
  get count(): number {
    return this.#drawn.size;
  }

  /** @throws OsmosisError LABELS_EXHAUSTED; then none is drawn. */
  draw(protocols: readonly Protocol[]): number[] {
    this.#reserve();
    const used = new Set([
      ...this.#drawn,
      ...inetSockets('self').map(({ protocol, local }) => `${protocol} ${local.port}`),
    ]);
    const labels: number[] = [];
    let looked = 0;
    for (const protocol of protocols) {
      const candidate = () => LABEL_FIRST + ((this.#next + looked) % LABELS_MAX);
      while (looked < LABELS_MAX && used.has(`${protocol} ${candidate()}`)) looked++;
      if (looked >= LABELS_MAX) {
        this.#giveBack();
        throw new OsmosisError(
          'LABELS_EXHAUSTED',
          `the destination has fewer than ${protocols.length} labels free (ports ${LABEL_FIRST}-${PROGRAM_LABELS.first - 1}); nothing was touched. ` +
            'Move cells away from it, or choose another host.',
        );
      }
      const port = candidate();
      used.add(`${protocol} ${port}`);
      labels.push(port);
      looked++;
    }
    this.#next = (this.#next + looked) % LABELS_MAX;
    protocols.forEach((protocol, index) => {
      this.#drawn.add(`${protocol} ${labels[index]}`);
    });
    return labels;
  }

  /** Keeps the range reserved until `letGo`; no harm where it is held already. */
  hold(holder: string): void {
    this.#holders.add(holder);
    this.#reserve();
  }

  letGo(holder: string): void {
    if (this.#holders.delete(holder)) this.#giveBack();
  }

  release(labels: Iterable<{ protocol: Protocol; port: number }>): void {
    for (const { protocol, port } of labels) this.#drawn.delete(`${protocol} ${port}`);
    this.#giveBack();
  }

  #reserve(): void {
    const reserved = currentRanges();
    if (!reserved.includes(RANGE)) writeFileSync(SYSCTL, [...reserved, RANGE].join(','));
  }

  #giveBack(): void {
    if (this.#drawn.size > 0 || this.#holders.size > 0) return;
    const reserved = currentRanges();
    // The kernel takes an empty list only as a lone newline.
    if (reserved.includes(RANGE))
      writeFileSync(SYSCTL, `${reserved.filter((range) => range !== RANGE).join(',')}\n`);
  }
}

function currentRanges(): string[] {
  return readFileSync(SYSCTL, 'utf8').trim().split(',').filter(Boolean);
}
