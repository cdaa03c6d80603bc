/**
 * What a moved cell is open to beyond the flows that it came with: ways out for its own new ones, by the routes of this
 * host, and the endpoints that are published. All of it are rules of the datapath (docs/datapath.md, "New flows").
 */
import { belongsTo } from '../datapath/created.ts';
import type { Datapath } from '../datapath/datapath.ts';
import { type Accept, encodeRuleKey, FLOWS_PER_RULE_MAX, type Rule, type WayOut } from '../datapath/rules.ts';
import { messageOf } from '../error.ts';
import { HeldPorts } from '../host/held-ports.ts';
import { type PrefixRoute, prefixRoutes } from '../host/route-table.ts';
import { type Labels, PROGRAM_LABELS } from './labels.ts';
import type { CellLink } from './namespaces.ts';
import type { Publication } from './publication.ts';
import type { Cell, Registry } from './registry.ts';

/** Routes are compared with the rules this often: three programs to start. */
const ROUTES_LOOK_MS = 5_000;

type Needs = {
  readonly datapath: Datapath;
  readonly labels: Labels;
  readonly registry: Registry;
  readonly log: { warn(fields: object, message: string): void };
};
/** Where a cell is in the datapath. */
export type Place = {
  readonly link: CellLink;
  readonly side: number;
  readonly init: { readonly pid: number };
};

export class Openings {
  readonly #needs: Needs;
  readonly #ports = new HeldPorts();
  #lookedAt = 0;

  constructor(needs: Needs) {
    this.#needs = needs;
  }

  /** The side is there. @throws OsmosisError PREFLIGHT where a port can't be held; `close` undoes what was done. */
  async open(place: Place, publications: readonly Publication[]): Promise<void> {
    this.#needs.labels.hold(holder(place.link));
    await this.#needs.datapath.putRules(await this.#waysOut(place, await prefixRoutes()));
    await this.publish(place, publications);
  }

  /** @throws OsmosisError PREFLIGHT where a port can't be held; those before it are published then. */
  async publish({ link, side, init }: Place, publications: readonly Publication[]): Promise<void> {
    const { datapath } = this.#needs;
    if (publications.length === 0) return;
    for (const publication of publications) await this.#ports.hold(publication);
    // What the host that the cell has come from says, whose address it has, goes in by way of its loopback device.
    await datapath.attachInside(`/proc/${init.pid}/ns/net`, link.ifindex);
    await datapath.putRules(publications.map((each) => acceptOf(each, link.ifindex, side)));
  }

  /** No new flows by these; those that are there go on. */
  async unpublish(publications: readonly Publication[]): Promise<void> {
    const rules = await this.#needs.datapath.rules();
    const keys = new Set(publications.map((each) => keyText(acceptOf(each, 0, 0))));
    await this.#needs.datapath.removeRules(rules.filter((rule) => keys.has(keyText(rule))));
    for (const publication of publications) await this.#ports.free(publication);
  }

  /** All rules of the cell, those of forwarding.ts too, and the flows that they have created. The side goes after that. */
  async close({ link }: Pick<Cell, 'link'>): Promise<void> {
    const { datapath, labels } = this.#needs;
    if (link === undefined) return;
    const own = (await datapath.rules()).filter((rule) => isOfCell(rule) && rule.scope === link.ifindex);
    await datapath.removeRules(own);
    if (datapath.isRuled) await datapath.removeCreated(belongsTo({ scope: link.ifindex }));
    for (const rule of own) if (rule.kind === 'accept') await this.#ports.free(rule);
    labels.letGo(holder(link));
  }

  /** An agent that comes back: ports and labels are held again, and what is missing is entered. */
  async recover(): Promise<void> {
    for (const cell of this.#needs.registry.all()) {
      const place = placeOf(cell);
      if (place === undefined) continue;
      await this.#guarded(() => this.open(place, cell.published ?? []));
    }
  }

  /** Routes come and go: the ways out of all cells are as they are. */
  async look(): Promise<void> {
    const cells = this.#needs.registry.all().filter(({ id }) => !this.#needs.registry.isLocked(id));
    const places = cells.flatMap((cell) => placeOf(cell) ?? []);
    if (places.length === 0 || performance.now() - this.#lookedAt < ROUTES_LOOK_MS) return;
    this.#lookedAt = performance.now();
    await this.#guarded(async () => {
      const routes = await prefixRoutes();
      for (const place of places) await this.#compare(place, routes);
    });
  }

  async #compare(place: Place, routes: readonly PrefixRoute[]): Promise<void> {
    const { datapath } = this.#needs;
    const there = (await datapath.rules()).filter(
      (rule) => rule.kind === 'way_out' && rule.scope === place.link.ifindex,
    );
    const wanted = waysOut(place, routes);
    const [texts, keys] = [new Set(there.map(ruleText)), new Set(wanted.map(keyText))];
    if (wanted.some((rule) => !texts.has(ruleText(rule))))
      await datapath.putRules(await this.#waysOut(place, routes));
    await datapath.removeRules(there.filter((rule) => !keys.has(keyText(rule))));
  }

  /** Answers come in by the devices of the routes. */
  async #waysOut(place: Place, routes: readonly PrefixRoute[]): Promise<WayOut[]> {
    for (const device of new Set(routes.map((route) => route.device)))
      await this.#needs.datapath.attachDevice(device);
    return waysOut(place, routes);
  }

  async #guarded(step: () => Promise<void>): Promise<void> {
    await step().catch((error: unknown) => {
      this.#needs.log.warn({ error: messageOf(error) }, 'new flows of cells: not all rules could be entered');
    });
  }
}

/** Undefined where the cell uses the host's own network. */
export function placeOf({ init, link, side }: Cell): Place | undefined {
  return init === undefined || link === undefined || side === 0 ? undefined : { init, link, side };
}

/** Not of one that lives elsewhere. */
function isOfCell(rule: Rule): rule is Accept | WayOut {
  return rule.kind !== 'follow';
}

/** As which the programs' labels are held. */
function holder({ ifindex }: CellLink): string {
  return `cell ${ifindex}`;
}

function waysOut({ link, side }: Place, routes: readonly PrefixRoute[]): WayOut[] {
  return routes.map(({ prefix, bits, address, ifindex }) => ({
    kind: 'way_out',
    scope: link.ifindex,
    prefix,
    bits,
    address,
    ifindex,
    localSide: side,
    labels: PROGRAM_LABELS,
    flowsMax: FLOWS_PER_RULE_MAX,
  }));
}

function acceptOf({ protocol, wire, local }: Publication, scope: number, localSide: number): Accept {
  return { kind: 'accept', protocol, wire, local, localSide, scope, flowsMax: FLOWS_PER_RULE_MAX };
}

function keyText(rule: Rule): string {
  return `${rule.kind} ${encodeRuleKey(rule)}`;
}

/** Of ways out of one cell: all that can differ. */
function ruleText(rule: Rule): string {
  return rule.kind === 'way_out' ? `${keyText(rule)} ${rule.address} ${rule.ifindex}` : keyText(rule);
}
