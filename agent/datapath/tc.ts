/** What is said to tc and ip, and how their JSON is read. Pure; attach.ts runs it. tc-bpf(8), ip-link(8). */

/** Our filters' place in the order of a hook: before those that tc numbers itself (from 49152 down). */
const PREFERENCE = 18018;

export type Hook = 'ingress' | 'egress';

/** Ethernet devices, and loopback, which has Ethernet headers as well. */
export type Link = {
  readonly name: string;
  readonly ifindex: number;
  readonly mtu: number;
  readonly ethernet: boolean;
};

type JsonLink = {
  readonly ifname: string;
  readonly ifindex: number;
  readonly mtu: number;
  readonly link_type: string;
};

export function linkArgv(device: string): string[] {
  return ['-j', 'link', 'show', 'dev', device];
}

export function parseLink(json: string): Link | undefined {
  // ip prints empty objects for the devices that it was not asked for.
  const link = (JSON.parse(json) as Partial<JsonLink>[]).find((each) => each.ifindex !== undefined);
  if (link?.ifname === undefined || link.ifindex === undefined) return undefined;
  const mtu = link.mtu ?? 0;
  const ethernet = link.link_type === 'ether' || link.link_type === 'loopback';
  return { name: link.ifname, ifindex: link.ifindex, mtu, ethernet };
}

export function qdiscShowArgv(device: string): string[] {
  return ['-j', 'qdisc', 'show', 'dev', device];
}

export function hasClsact(json: string): boolean {
  return (JSON.parse(json || '[]') as { readonly kind?: string }[]).some(({ kind }) => kind === 'clsact');
}

export function qdiscAddArgv(device: string): string[] {
  return ['qdisc', 'add', 'dev', device, 'clsact'];
}

export function qdiscDeleteArgv(device: string): string[] {
  return ['qdisc', 'del', 'dev', device, 'clsact'];
}

export function filterAddArgv(device: string, hook: Hook, pinnedProgram: string): string[] {
  return [...filterArgv('add', device, hook), 'direct-action', 'object-pinned', pinnedProgram];
}

export function filterDeleteArgv(device: string, hook: Hook): string[] {
  return filterArgv('del', device, hook);
}

export function filterShowArgv(device: string, hook: Hook): string[] {
  return ['-j', 'filter', 'show', 'dev', device, hook];
}

/** As `filterAddArgv`, in the place of an earlier one; the program reads `id` as its class. */
export function filterReplaceArgv(device: string, hook: Hook, pinnedProgram: string, id: number): string[] {
  const program = ['direct-action', 'object-pinned', pinnedProgram, 'classid', `1:${id.toString(16)}`];
  return [...filterArgv('replace', device, hook), ...program];
}

export function qdiscReplaceArgv(device: string): string[] {
  return ['qdisc', 'replace', 'dev', device, 'clsact'];
}

/** No filter of anybody's is left on the hook. */
export function isHookEmpty(json: string): boolean {
  return (JSON.parse(json || '[]') as unknown[]).length === 0;
}

function filterArgv(verb: 'add' | 'del' | 'replace', device: string, hook: Hook): string[] {
  const place = ['pref', String(PREFERENCE), 'handle', '1', 'protocol', 'all'];
  return ['filter', verb, 'dev', device, hook, ...place, 'bpf'];
}
