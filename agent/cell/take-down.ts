import type { AgentContext } from '../context.ts';
import { destroyLink, destroyNamespaces } from './namespaces.ts';
import type { Cell } from './registry.ts';

/** What was made for a cell on this host goes: its device, its namespaces, its labels. Its entries have gone before. */
export async function takeDown(
  { datapath, labels }: Pick<AgentContext, 'datapath' | 'labels'>,
  { link, init, labels: drawn }: Cell,
): Promise<void> {
  if (link !== undefined) {
    await datapath.removeInside(link.ifindex);
    await destroyLink(link.name);
  }
  if (init !== undefined) await destroyNamespaces(init);
  labels.release(drawn.map(({ protocol, wire }) => ({ protocol, port: wire.port })));
}
