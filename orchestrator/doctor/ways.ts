/** Whether agents hear one another over UDP port 18018: every host asks every other. */
import type { Result } from '../../agent/control/protocol.ts';
import { type Finding, fail, note, ok } from './finding.ts';

export type Reached = Result<'reach'>['rows'];

/** Of one host: what its agent has found when it asked, or why it could not be asked. */
export type Asker = {
  readonly host: string;
  /** Addresses that others may know it by. */
  readonly addresses: readonly string[];
  readonly reached?: Reached;
  readonly message?: string;
};

export type Way = { readonly from: string; readonly to: string } & Finding;

const WHY =
  'a host with connections to a moved process must hear from the agent of the host that it moves to, and be heard';

/** Addresses that several hosts have (those of container bridges, for instance) say nothing: each would mean itself. */
export function askedAddresses(askers: readonly Pick<Asker, 'addresses'>[]): string[] {
  const all = askers.flatMap(({ addresses }) => [...new Set(addresses)]);
  const holders = Map.groupBy(all, (address) => address);
  return [...holders].flatMap(([address, { length }]) => (length === 1 ? address : []));
}

export function ways(askers: readonly Asker[]): Way[] {
  const asked = new Set(askedAddresses(askers));
  return askers.flatMap((from) =>
    askers
      .filter((to) => to !== from)
      .map((to) => ({
        from: from.host,
        to: to.host,
        ...wayFinding(
          from,
          to,
          to.addresses.filter((address) => asked.has(address)),
        ),
      })),
  );
}

function wayFinding(from: Asker, to: Asker, addresses: readonly string[]): Finding {
  const check = 'reach';
  if (from.reached === undefined) return note(check, `not tried: ${from.message ?? 'no agent to ask from'}`);
  if (addresses.length === 0)
    return note(check, `not tried: no address of ${to.host} is known that only it has`);
  const rows = from.reached.filter(({ address }) => addresses.includes(address));
  const heard = rows.filter(({ answer }) => answer === 'agent');
  const others = rows.filter(({ answer }) => answer !== 'agent');
  const rest = others.map(({ address, answer }) => `${address} (${ANSWERS[answer]})`).join(', ');
  if (heard.length > 0) {
    const what = heard.map(({ address }) => address).join(', ');
    return others.length === 0
      ? ok(check, what)
      : note(check, `${what}; not at ${rest}`, 'connections by those addresses would not be kept');
  }
  if (others.some(({ answer }) => answer === 'closed'))
    return fail(
      check,
      `no agent at ${rest}`,
      WHY,
      `start the agent of ${to.host}: systemctl start osmosis-agent`,
    );
  return fail(
    check,
    `no answer of an agent at ${rest}`,
    WHY,
    `let UDP port 18018 pass between the two, from port 18018, both ways: at ${to.host}, nft list ruleset; tcpdump -ni any udp port 18018 shows whether anything arrives`,
  );
}

const ANSWERS = {
  agent: 'an agent',
  closed: 'the host answers, nobody listens',
  silent: 'silent: a firewall, or another host',
  own: 'an address of its own',
  'no-route': 'no route',
} as const;
