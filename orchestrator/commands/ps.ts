/** `osmosis ps` */
import { endpointText } from '../../agent/address.ts';
import type { CellFact, Result } from '../../agent/control/protocol.ts';
import { plainText } from '../display/format.ts';
import { leaseText } from '../lease.ts';
import { type HostOptions, printJson, withHosts } from './hosts.ts';

export type HostStatus = { readonly name: string; readonly status: Result<'status'> };

export async function runPs(
  names: readonly string[],
  options: HostOptions & { readonly json?: boolean },
): Promise<void> {
  await withHosts(options, async (hosts, signal) => {
    const statuses = await Promise.all(
      names.map(async (name): Promise<HostStatus> => {
        const connection = await hosts.connect(name);
        const agent = await hosts.agent(connection);
        return { name: connection.name, status: await agent.call('status', {}, { signal }) };
      }),
    );
    if (options.json)
      printJson({
        ok: true,
        hosts: statuses.map(({ name, status: { version, cells, remote_cells, h2o } }) => ({
          host: name,
          version,
          cells,
          remote_cells,
          ...(h2o && { h2o }),
        })),
      });
    else process.stdout.write(`${statuses.map(statusText).join('\n\n')}\n`);
  });
}

export function statusText({ name: host, status: { version, cells, remote_cells } }: HostStatus): string {
  const lines = [
    `${host} (agent ${version}): ${cells.length} cells here, ${remote_cells.length} cells elsewhere with connections here`,
  ];
  for (const { name, pid, command, home, flows, forwarding, published = [], terminal } of cells) {
    const at = `${home ? 'at home' : 'moved in'}${terminal === undefined ? '' : ', with a terminal'}`;
    lines.push(`  ${name}  pid ${pid}  ${at}  ${flows.length} flows  ${plainText(command)}`);
    for (const { protocol, wire, local } of published)
      lines.push(`    published at ${protocol} ${endpointText(wire)}, for ${endpointText(local)}`);
    const groups = Map.groupBy(flows, ({ virtual_local, wire_local, virtual_remote, by }) =>
      [endpointText(virtual_local), endpointText(wire_local), virtual_remote.address, by].join(' '),
    );
    for (const same of groups.values()) {
      const [first] = same;
      if (first === undefined) continue;
      const { virtual_local, wire_local, virtual_remote, by } = first;
      lines.push(
        `    ${endpointText(virtual_local)} on the wire as ${endpointText(wire_local)}: ${same.length} flows with ${virtual_remote.address}${by === undefined ? '' : `, relayed by ${by}`}`,
      );
    }
    if (forwarding !== undefined) lines.push(`    ${forwardingText(forwarding)}`);
  }
  for (const { cell, state, flows, wire, epoch, relays, follow, held_since, ...its } of remote_cells) {
    lines.push(
      `  cell ${cell.slice(0, 8) || '(unnamed)'} elsewhere: ${state}, epoch ${epoch}, ${flows} flows, now at ${wire.join(', ') || 'no place known'}`,
    );
    if (held_since !== undefined)
      lines.push(
        `    suspended since ${timeText(held_since)}: its connections here wait; osmosis held end gives it up`,
      );
    for (const { peer, flows: count } of relays)
      lines.push(`    relayed from here for ${peer}, which has no agent: ${count} flows`);
    if (its.datagrams_wait) lines.push('    datagrams to it wait');
    if (its.datagrams !== undefined)
      lines.push(
        `    datagrams that waited for it: ${its.datagrams.came}, of which ${its.datagrams.lost} were lost`,
      );
    if (follow !== undefined) lines.push(`    ${followText(follow)}`);
  }
  return lines.join('\n');
}

function forwardingText({ lease_s, endpoints, peers }: NonNullable<CellFact['forwarding']>): string {
  const what = endpoints.map((each) => `${each.protocol} ${endpointText(each)}`).join(', ');
  const who = peers.map(({ address, until }) => `${address} until ${timeText(until)}`).join(', ');
  return `new connections to ${what} follow it, renewed for ${leaseText(lease_s)}: ${who || 'no peer has acknowledged yet'}`;
}

function followText({
  until,
  labels,
}: NonNullable<Result<'status'>['remote_cells'][number]['follow']>): string {
  const what = labels.map(
    ({ protocol, virtual, wire }) => `${protocol} ${endpointText(virtual)} to ${endpointText(wire)}`,
  );
  return `new connections follow it until ${timeText(until)} unless renewed: ${what.join(', ')}`;
}

function timeText(ms: number): string {
  return new Date(ms).toISOString();
}
