/** For tests: two agents that answer as they are told and keep what they were asked, in its order. */
import { encode } from 'cborg';
import type { Method, Params, Result } from '../agent/control/protocol.ts';
import { hostFactsWith, snapshotWith } from '../agent/test-support.ts';
import type { Frame } from '../agent/wire/frame.ts';
import type { AgentClient, CallOptions } from './agent-client.ts';
import type { Host } from './migrate.ts';

type Answer<M extends Method> = (params: Params<M>, options: CallOptions) => Promise<Result<M>>;
export type Answers = { readonly [M in Method]?: Answer<M> };

/** Answers of a migration in which all goes well, with one peer and an image of 3 bytes. */
const GOOD: Answers = {
  inspect: async () => snapshotWith(),
  survey: async () => ({ peers: [{ address: '10.77.4.2', agent: true, flows: 1, relayed: 0 }] }),
  preflight: async () => ({ host: hostFactsWith({ machine_id: 'beta' }), checks: [] }),
  'source.prepare': async () => snapshotWith(),
  'destination.prepare': async () => ({ labels: [] }),
  'source.arm': async () => ({}),
  'source.stay': async () => ({}),
  'source.hold': async () => ({ silent: [] }),
  'resume.claim': async ({ sessions }) => ({
    peers: sessions.map(({ peer }) => ({ peer, answer: 'held' as const })),
  }),
  'resume.verdict': async () => ({ verdict: 'commit' as const }),
  'resume.discard': async () => ({ silent: [] }),
  'destination.arm': async () => ({}),
  'destination.commit': async () => ({}),
  status: async () => ({ version: '0', host: hostFactsWith(), cells: [], remote_cells: [] }),
  'source.freeze': async () => ({ sessions: [], dump_ms: 1 }),
  'image.read': async () => ({}),
  'image.write': async () => ({ bytes: 3 }),
  'destination.restore': async () => ({ restore_ms: 1 }),
  'source.commit': async () => ({}),
  'destination.resume': async () => ({ resume_ms: 1 }),
  'destination.confirm': async () => ({ pid: 4242, silent: [], flip_ms: [2] }),
  'source.confirm': async () => ({}),
  'source.abort': async () => ({ committed: false }),
  'destination.abort': async () => ({}),
};

/** Both hosts of a migration; `calls`: what both were asked. */
export function fakeHosts(answers: Answers = {}) {
  const calls: Method[] = [];
  const frames: Frame[] = [];
  const script = { ...GOOD, ...answers };
  let receive: (frame: Frame) => Promise<void> = async () => {};
  const channel = (host: string) => {
    const fake = {
      host,
      call: async <M extends Method>(
        method: M,
        params: Params<M>,
        options: CallOptions = {},
      ): Promise<Result<M>> => {
        options.signal?.throwIfAborted();
        calls.push(method);
        const answer = script[method] as Answer<M> | undefined;
        if (answer === undefined) throw new Error(`nobody expects ${method}`);
        const result = await answer(params, options);
        if (method === 'image.read') {
          await receive({ kind: 'data', body: Uint8Array.of(1, 2, 3) });
          await receive({ kind: 'end', body: encode({ bytes: 3, files: 1, sha256: new Uint8Array(32) }) });
        }
        return result;
      },
      receiveImage: (receiver: typeof receive) => {
        receive = receiver;
      },
      sendImage: async (kind: 'data' | 'end', body: Uint8Array) => void frames.push({ kind, body }),
    };
    return fake as unknown as AgentClient;
  };
  const hostOf = (name: string): Host => ({ control: channel(name), image: channel(name) });
  return { source: hostOf('alpha'), destination: hostOf('beta'), calls, frames };
}
