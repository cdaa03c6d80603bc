/** `osmosis ps` */
import { endpointText } from '../../agent/address.ts';
import type { Result } from '../../agent/control/protocol.ts';
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
        hosts: statuses.map(({ name, status: { version, cells, remote_cells } }) => ({
          host: name,
          version,
          cells,
          remote_cells,
        })),
      });
    else process.stdout.write(`${statuses.map(statusText).join('\n\n')}\n`);
  });
}

export function statusText({ name: host, status: { version, cells, remote_cells } }: HostStatus): string {
  const lines = [
    `${host} (agent ${version}): ${cells.length} cells here, ${remote_cells.length} cells elsewhere with connections here`,
  ];
  for (const { name, pid, command, home, flows, published = [] } of cells) {
    lines.push(`  ${name}  pid ${pid}  ${home ? 'at home' : 'moved in'}  ${flows.length} flows  ${command}`);
    for (const { protocol, wire, local } of published)
      lines.push(`    published at ${protocol} ${endpointText(wire)}, for ${endpointText(local)}`);
    const groups = Map.groupBy(flows, ({ virtual_local, wire_local, virtual_remote }) =>
      [endpointText(virtual_local), endpointText(wire_local), virtual_remote.address].join(' '),
    );
    for (const same of groups.values()) {
      const [first] = same;
      if (first === undefined) continue;
      const { virtual_local, wire_local, virtual_remote } = first;
      lines.push(
        `    ${endpointText(virtual_local)} on the wire as ${endpointText(wire_local)}: ${same.length} flows with ${virtual_remote.address}`,
      );
    }
  }
  for (const { cell, state, flows, wire, epoch } of remote_cells) {
    lines.push(
      `  cell ${cell.slice(0, 8) || '(unnamed)'} elsewhere: ${state}, epoch ${epoch}, ${flows} flows, now at ${wire.join(', ') || 'no place known'}`,
    );
  }
  return lines.join('\n');
}
