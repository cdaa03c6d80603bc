/** `osmosis cordon`, `uncordon`, and what a drain writes down, at one agent. */
import type { AgentContext } from '../context.ts';
import type { DRAIN_METHODS } from '../control/drain-protocol.ts';
import type { Handlers } from '../control/server.ts';

export function cordonHandlers({
  cordon,
  log,
}: Pick<AgentContext, 'cordon' | 'log'>): Pick<Handlers, keyof typeof DRAIN_METHODS> {
  return {
    cordon: async ({ reason, dry_run }) => {
      const before = cordon.record;
      const next = {
        since: before?.since ?? Date.now(),
        ...pick('reason', reason ?? before?.reason),
        ...pick('drain', before?.drain),
      };
      if (!dry_run) {
        cordon.set(next);
        if (before === undefined) log.info({ reason }, 'cordoned: no cell is placed here');
      }
      return { changed: before === undefined, cordon: next };
    },
    'drain.record': async ({ drain }) => {
      if (cordon.record !== undefined) cordon.set({ ...cordon.record, drain });
      return {};
    },
    uncordon: async ({ dry_run }) => {
      const changed = cordon.record !== undefined;
      if (!dry_run && changed) {
        cordon.clear();
        log.info('uncordoned: cells may be placed here');
      }
      return { changed };
    },
  };
}

function pick<K extends string, V>(key: K, value: V | undefined): { [key in K]?: V } {
  return value === undefined ? {} : ({ [key]: value } as { [key in K]: V });
}
