/** The handlers of a migration's steps, with the journal told of each: what it was, how long it took, how it failed. */
import type { Method, Params, Result } from '../control/protocol.ts';
import type { Call, Handlers } from '../control/server.ts';
import { asOsmosisError } from '../error.ts';
import type { Phase } from '../phases.ts';
import type { Journal, Role, Step } from './journal.ts';

type Watched<M extends Method> = {
  readonly role: Role;
  readonly step: Step;
  readonly phase: Phase;
  /** The line of the log once it is done, and what of its answer belongs there. */
  readonly text?: string;
  readonly tell?: (result: Result<M>) => object;
};

const WATCHED: { readonly [M in Method]?: Watched<M> } = {
  'source.prepare': { role: 'source', step: 'prepare', phase: 'prepare' },
  'source.arm': {
    role: 'source',
    step: 'arm',
    phase: 'prepare',
    text: 'prepared: its peers know where it may go',
    tell: ({ refused }) => ({ refused: refused || undefined }),
  },
  'source.stay': {
    role: 'source',
    step: 'arm',
    phase: 'prepare',
    text: 'prepared: its peers know that it may be suspended',
  },
  'source.freeze': {
    role: 'source',
    step: 'freeze',
    phase: 'freeze',
    text: 'frozen, and its image is written',
    tell: ({ dump_ms, sessions }) => ({ dump_ms: Math.round(dump_ms), peers: sessions.length }),
  },
  'image.read': { role: 'source', step: 'image', phase: 'freeze' },
  'source.commit': {
    role: 'source',
    step: 'commit',
    phase: 'commit',
    text: 'decided: no way back from here',
  },
  'source.hold': { role: 'source', step: 'redirect', phase: 'redirect' },
  'source.confirm': { role: 'source', step: 'confirm', phase: 'confirm' },
  'destination.prepare': {
    role: 'destination',
    step: 'prepare',
    phase: 'prepare',
    text: 'prepared: the cell waits for its image',
    tell: ({ labels }) => ({ labels: labels.length }),
  },
  'destination.arm': { role: 'destination', step: 'arm', phase: 'prepare' },
  'image.write': { role: 'destination', step: 'image', phase: 'freeze' },
  'destination.restore': {
    role: 'destination',
    step: 'restore',
    phase: 'restore',
    text: 'restored: it waits for the decision',
  },
  'destination.commit': { role: 'destination', step: 'commit', phase: 'commit' },
  'destination.resume': { role: 'destination', step: 'redirect', phase: 'redirect', text: 'runs here' },
  'destination.confirm': { role: 'destination', step: 'confirm', phase: 'confirm' },
};

type Handler = (params: Params<Method>, call: Call) => Promise<Result<Method>>;

export function watched(handlers: Handlers, journal: Journal): Handlers {
  const steps = Object.entries(WATCHED).map(([method, step]) => {
    const handler = handlers[method as Method] as Handler;
    return [method, watchedStep(handler, method as Method, step as Watched<Method>, journal)];
  });
  return { ...handlers, ...Object.fromEntries(steps) };
}

function watchedStep(handler: Handler, method: Method, watch: Watched<Method>, journal: Journal): Handler {
  const { role, step, phase, text, tell } = watch;
  return async (params, call) => {
    const { migration, source } = params as { migration: string; source?: unknown };
    if (method === 'source.stay') journal.suspends(migration);
    journal.started(role, migration, step);
    try {
      const result = await handler(params, call);
      const said = text === undefined ? undefined : { text, phase, more: tell?.(result) ?? {} };
      journal.done(role, migration, step, said);
      return result;
    } catch (thrown) {
      const { code, message } = asOsmosisError(thrown);
      const kind = method === 'destination.prepare' && source === undefined ? 'resume' : 'move';
      journal.failed(role, migration, { kind, step, phase, code, error: message });
      throw thrown;
    }
  };
}
