/** The orchestrator's end of the control channel to one agent. */
import { once } from 'node:events';
import type { Duplex } from 'node:stream';
import { METHODS, type Method, type Params, type Result, responseSchema } from '../agent/control/protocol.ts';
import { isErrorCode, messageOf, OsmosisError } from '../agent/error.ts';
import { PHASES, type Phase } from '../agent/phases.ts';
import {
  decodeMessage,
  encodeFrame,
  encodeMessage,
  type Frame,
  FrameDecoder,
  type FrameKind,
} from '../agent/wire/frame.ts';

/** A request that names no deadline of its own is answered within this, or the agent is taken for gone. */
const ANSWER_MS_MAX = 120_000;

type Waiting = { resolve(value: unknown): void; reject(error: unknown): void; method: Method };
export type CallOptions = { readonly signal?: AbortSignal; readonly timeoutMs?: number };

export class AgentClient {
  readonly host: string;
  readonly #stream: Duplex;
  readonly #waiting = new Map<number, Waiting>();
  readonly #decoder = new FrameDecoder();
  #onImage: ((frame: Frame) => void) | undefined;
  #failure: OsmosisError | undefined;
  #nextId = 1;

  constructor(host: string, stream: Duplex) {
    this.host = host;
    this.#stream = stream;
    stream.on('data', (chunk: Buffer) => this.#receive(chunk));
    stream.on('error', (error) => this.#fail(error));
    stream.on('close', () => this.#fail(new Error('connection closed')));
    if (stream.destroyed) this.#fail(stream.errored ?? new Error('connection closed'));
  }

  /** @throws OsmosisError as the agent gave it, AGENT_UNREACHABLE when the connection ends first, TIMEOUT, INTERRUPTED. */
  async call<M extends Method>(
    method: M,
    params: Params<M>,
    { signal, timeoutMs = ANSWER_MS_MAX }: CallOptions = {},
  ): Promise<Result<M>> {
    signal?.throwIfAborted();
    if (this.#failure !== undefined) throw this.#failure;
    const id = this.#nextId++;
    const request = encodeMessage('request', { id, method, params });
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, method });
    });
    const giveUp = (error: OsmosisError) => {
      this.#stream.write(encodeMessage('cancel', { id }));
      this.#waiting.get(id)?.reject(error);
      this.#waiting.delete(id);
    };
    const timer = setTimeout(
      () =>
        giveUp(
          new OsmosisError(
            'TIMEOUT',
            `the agent of ${this.host} did not answer ${method} within ${timeoutMs} ms`,
          ),
        ),
      timeoutMs,
    );
    const onAbort = () => giveUp(new OsmosisError('INTERRUPTED', `interrupted during ${method}`));
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      this.#stream.write(request);
      const parsed = METHODS[method].result.safeParse(await answer);
      if (!parsed.success) {
        throw new OsmosisError(
          'AGENT_PROTOCOL',
          `the agent of ${this.host} answered ${method} in another form; are both of one version?`,
        );
      }
      return parsed.data as Result<M>;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Frames of an image, data and end, go to `receiver`, one at a time, with the stream paused until it is done. */
  receiveImage(receiver: (frame: Frame) => Promise<void>): void {
    this.#onImage = (frame) => {
      this.#stream.pause();
      receiver(frame).then(
        () => this.#stream.resume(),
        (error: unknown) => this.#stream.destroy(error instanceof Error ? error : new Error(String(error))),
      );
    };
  }

  /** Resolves when there is room for more. */
  async sendImage(kind: FrameKind & ('data' | 'end'), body: Uint8Array): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#stream.write(encodeFrame(kind, body))) return;
    // A stream that ends without an error drains no more.
    const settled = new AbortController();
    const { signal } = settled;
    try {
      await Promise.race([once(this.#stream, 'drain', { signal }), once(this.#stream, 'close', { signal })]);
    } finally {
      settled.abort();
    }
  }

  close(): void {
    this.#stream.destroy();
  }

  #receive(chunk: Buffer): void {
    try {
      for (const frame of this.#decoder.push(chunk)) {
        if (frame.kind === 'data' || frame.kind === 'end') this.#onImage?.(frame);
        else this.#settle(frame);
      }
    } catch (error) {
      this.#stream.destroy();
      this.#fail(error);
    }
  }

  #settle(frame: Frame): void {
    const response = responseSchema.parse(decodeMessage(frame));
    const waiting = this.#waiting.get(response.id);
    if (waiting === undefined) return;
    this.#waiting.delete(response.id);
    if (response.error === undefined) waiting.resolve(response.result);
    else waiting.reject(this.#errorOf(response.error));
  }

  #errorOf(error: NonNullable<(typeof responseSchema)['_output']['error']>): OsmosisError {
    const code = isErrorCode(error.code) ? error.code : 'INTERNAL';
    const phase = PHASES.find((name): name is Phase => name === error.phase);
    return new OsmosisError(code, `${this.host}: ${error.message}`, {
      ...(phase === undefined ? {} : { phase }),
      ...(error.owner === undefined ? {} : { owner: error.owner }),
      cleanup: error.cleanup ?? [],
    });
  }

  #fail(error: unknown): void {
    this.#failure ??=
      error instanceof OsmosisError
        ? error
        : new OsmosisError('AGENT_UNREACHABLE', `lost the agent of ${this.host}: ${messageOf(error)}`, {
            cause: error,
          });
    for (const waiting of this.#waiting.values()) waiting.reject(this.#failure);
    this.#waiting.clear();
  }
}
