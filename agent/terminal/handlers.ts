/** What `osmosis attach` asks of an agent. */
import type { AgentContext } from '../context.ts';
import type { Handlers } from '../control/server.ts';
import type { TERMINAL_METHODS } from '../control/terminal-protocol.ts';

export function terminalHandlers({
  terminals,
}: Pick<AgentContext, 'terminals'>): Pick<Handlers, keyof typeof TERMINAL_METHODS> {
  return {
    'terminal.state': ({ target, wait_ms = 0 }, { signal }) => terminals.state(target, wait_ms, signal),
    'terminal.attach': async ({ cell, attachment }, { signal }) => {
      await terminals.attach(cell, attachment, signal);
      return {};
    },
    'terminal.left': async ({ cell, attachment }) => terminals.left(cell, attachment),
    'terminal.type': async ({ cell, keys }) => {
      await terminals.type(cell, keys);
      return {};
    },
  };
}
