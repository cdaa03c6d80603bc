/** All that the interactive display knows; the screen is a function of it (screen.ts), and of nothing else. */
import type { View } from '../display/state.ts';

export type PeerView = {
  readonly address: string;
  readonly flows: number;
  /** Bytes so far, and of late bytes per second. */
  readonly bytesIn: number;
  readonly bytesOut: number;
  readonly inPerS: number;
  readonly outPerS: number;
};
export type CellView = {
  readonly id: string;
  readonly name: string;
  readonly pid: number;
  readonly command: string;
  readonly home: boolean;
  readonly peers: readonly PeerView[];
};
export type HostView = {
  readonly name: string;
  readonly state: 'connecting' | 'up' | 'down';
  /** Why it is down. */
  readonly message?: string;
  readonly version?: string;
  readonly load?: number;
  readonly cpus?: number;
  readonly roomBytes?: number;
  readonly cordoned?: boolean;
  readonly cells: readonly CellView[];
  /** Clock reading of what its cells say. */
  readonly seenMs?: number;
};

/** A row of the list: a host, or one of its cells. */
export type Selected = { readonly host: string; readonly cell?: string };
/** A cell by the host that it is on. */
export type CellRef = { readonly host: string; readonly cell: string };

export type HistoryEntry = {
  readonly at: number;
  readonly what: 'move' | 'suspend' | 'resume' | 'drain';
  readonly text: string;
  readonly ok: boolean;
};

export type Work = {
  readonly what: 'move' | 'suspend' | 'resume';
  readonly title: string;
  readonly view: View;
  /** Once it is over. */
  readonly end?: { readonly ok: boolean; readonly lines: readonly string[] };
  /** Ctrl-C was pressed. */
  readonly interrupted?: boolean;
};
export type DrainWork = {
  readonly host: string;
  readonly lines: readonly string[];
  readonly over: boolean;
  readonly stopping?: boolean;
};

export type Mode =
  | { readonly mode: 'list' }
  | { readonly mode: 'help' }
  | { readonly mode: 'history'; readonly scroll: number }
  /** Where to? */
  | { readonly mode: 'choose'; readonly cell: CellRef; readonly index: number }
  | {
      readonly mode: 'plan';
      readonly what: 'move' | 'drain';
      readonly cell?: CellRef;
      readonly host: string;
      readonly to?: string;
      /** Undefined while it is made. */
      readonly lines?: readonly string[];
      readonly ok: boolean;
      readonly scroll: number;
    }
  | {
      readonly mode: 'ask';
      readonly what: 'suspend' | 'resume';
      readonly on: Selected;
      readonly file: string;
    }
  | { readonly mode: 'work' }
  | { readonly mode: 'drain' };

export type Model = {
  readonly hosts: readonly HostView[];
  readonly selected: Selected | undefined;
  readonly mode: Mode;
  readonly work?: Work;
  readonly drain?: DrainWork;
  /** The latest last. */
  readonly history: readonly HistoryEntry[];
  /** What the last key led to, where that was nothing. */
  readonly notice?: string;
};

/** What a key, or what has happened, leads to outside of the model. */
export type Effect =
  | { readonly do: 'quit' }
  | { readonly do: 'plan'; readonly cell: CellRef; readonly to: string }
  | { readonly do: 'move'; readonly cell: CellRef; readonly to: string }
  | { readonly do: 'planDrain'; readonly host: string }
  | { readonly do: 'drain'; readonly host: string }
  | { readonly do: 'uncordon'; readonly host: string }
  | { readonly do: 'suspend'; readonly cell: CellRef; readonly file: string }
  | { readonly do: 'resume'; readonly file: string; readonly host: string }
  /** Of what is under way. */
  | { readonly do: 'interrupt' };

export function firstModel(hosts: readonly string[]): Model {
  const [first] = hosts;
  return {
    hosts: hosts.map((name) => ({ name, state: 'connecting', cells: [] })),
    selected: first === undefined ? undefined : { host: first },
    mode: { mode: 'list' },
    history: [],
  };
}

/** The rows of the list, from above. */
export function rowsOf({ hosts }: Model): Selected[] {
  return hosts.flatMap(({ name, cells }) => [
    { host: name },
    ...cells.map(({ id }) => ({ host: name, cell: id })),
  ]);
}

export function isSame(a: Selected | undefined, b: Selected | undefined): boolean {
  return a?.host === b?.host && a?.cell === b?.cell;
}

export function hostNamed({ hosts }: Model, name: string | undefined): HostView | undefined {
  return hosts.find((host) => host.name === name);
}

export function cellAt(model: Model, at: Selected | undefined): CellView | undefined {
  return hostNamed(model, at?.host)?.cells.find(({ id }) => id === at?.cell);
}

/** Hosts that a cell of `from` may go to. */
export function destinationsFrom({ hosts }: Model, from: string): HostView[] {
  return hosts.filter(({ name, state, cordoned }) => name !== from && state === 'up' && !cordoned);
}
