/** Hosts, the nets between them and the insides of cells, of both families at once, from network namespaces. */
import { link, type Namespace } from './namespaces.ts';

/** One end of a net in both families; `site` keeps the nets of test files apart. */
export type Addresses = { readonly ipv4: string; readonly ipv6: string };

export function addressesOf(site: number, net: number, end: number): Addresses {
  return { ipv4: `10.${site}.${net}.${end}`, ipv6: `fd${site}:${net}::${end}` };
}

/** A device gets the addresses of one end of a net, and the net with them. */
export async function addTo(
  space: Namespace,
  device: string,
  ...[site, net, end]: Parameters<typeof addressesOf>
) {
  const { ipv4, ipv6 } = addressesOf(site, net, end);
  await space.ip(`addr add ${ipv4}/24 dev ${device}`, `addr add ${ipv6}/64 dev ${device} nodad`);
}

/** `host` is end 2 of a net, by its eth0; all else it reaches by end 1, which is `by`, by a device of this name. */
export async function connectHost(
  host: Namespace,
  by: Namespace,
  device: string,
  site: number,
  net: number,
): Promise<void> {
  await link(host, 'eth0', by, device);
  await addTo(by, device, site, net, 1);
  await addTo(host, 'eth0', site, net, 2);
  await routeBy(host, addressesOf(site, net, 1));
}

export async function routeBy(space: Namespace, { ipv4, ipv6 }: Addresses): Promise<void> {
  await space.ip(`route add default via ${ipv4}`, `route add default via ${ipv6}`);
}

/** A namespace passes on what is not for it. */
export async function forward(space: Namespace): Promise<void> {
  await space.run('sysctl', '-qw', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1');
}

/** The veth between a cell, where it is called `inner`, and its host, where it is called `device`: the host answers for all. */
export async function linkCell(
  host: Namespace,
  device: string,
  cell: Namespace,
  inner = 'eth0',
): Promise<void> {
  await link(host, device, cell, inner);
  const mac = await host.mac(device);
  await cell.ip(
    `neigh add 169.254.1.1 lladdr ${mac} dev ${inner} nud permanent`,
    `neigh add fe80::1 lladdr ${mac} dev ${inner} nud permanent`,
  );
}

/** The addresses of a cell are its own only, on this device of its. */
export async function giveAddresses(
  cell: Namespace,
  device: string,
  { ipv4, ipv6 }: Addresses,
): Promise<void> {
  await cell.ip(`addr add ${ipv4}/32 dev ${device}`, `addr add ${ipv6}/128 dev ${device} nodad`);
}

/** From now on the cell with these addresses sends by this device of its. */
export async function sendBy(cell: Namespace, inner: string, { ipv4 }: Addresses): Promise<void> {
  await cell.ip(
    `route replace default via 169.254.1.1 dev ${inner} src ${ipv4} onlink`,
    `route replace default via fe80::1 dev ${inner}`,
  );
}
