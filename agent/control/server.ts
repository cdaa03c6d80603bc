/** Serves the control channel on the agent's Unix socket. */

import { once } from 'node:events';
import { chmodSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { asOsmosisError, messageOf, OsmosisError } from '../error.ts';
import { decodeMessage, encodeFrame, encodeMessage, type Frame, FrameDecoder } from '../wire/frame.ts';
import {
  cancelSchema,
  isMethod,
  METHODS,
  type Method,
  type Params,
  type Result,
  requestSchema,
} from './protocol.ts';

/** Clients at once; one migration uses three. */
const CONNECTIONS_MAX = 256;
/** Requests under way on one connection. */
const REQUESTS_MAX = 64;

export type Call = {
  /** Aborted when the client cancels, or goes away. */
  readonly signal: AbortSignal;
  /** Aborted when the connection ends: whoever drove a migration over it is gone. */
  readonly gone: AbortSignal;
  /** Sends one piece of an image; resolves when the client's side has room for more. */
  sendData(piece: Buffer): Promise<void>;
  sendEnd(summary: unknown): void;
  /**
   * Frames of kind data and end that the client sends, up to the end frame or the end of this request. To be called
   * before anything is awaited: frames that nobody reads are dropped.
   */
  frames(): AsyncIterable<Frame>;
};

export type Handlers = { readonly [M in Method]: (params: Params<M>, call: Call) => Promise<Result<M>> };
type Log = { warn(fields: object, message: string): void };

/** @throws OsmosisError AGENT_UNREACHABLE where the socket can't be made. */
export async function serveControl(path: string, handlers: Handlers, log: Log): Promise<Server> {
  const server = createServer((socket) => serveConnection(socket, handlers, log));
  server.maxConnections = CONNECTIONS_MAX;
  rmSync(path, { force: true });
  // The mode is right from the first instant: nobody can connect between bind and chmod.
  const mask = process.umask(0o177);
  try {
    server.listen(path);
    await once(server, 'listening');
  } catch (cause) {
    throw new OsmosisError('AGENT_UNREACHABLE', `can't listen on ${path}: ${messageOf(cause)}`, { cause });
  } finally {
    process.umask(mask);
  }
  chmodSync(path, 0o600);
  return server;
}

function serveConnection(socket: Socket, handlers: Handlers, log: Log): void {
  const decoder = new FrameDecoder();
  const running = new Map<number, AbortController>();
  let inbox: FrameQueue | undefined;
  const connection = new AbortController();
  const gone = () => {
    connection.abort(new OsmosisError('INTERRUPTED', 'the client went away'));
    for (const controller of running.values())
      controller.abort(new OsmosisError('INTERRUPTED', 'the client went away'));
  };
  socket.on('close', gone);
  socket.on('error', (error) => log.warn({ error: error.message }, 'control connection failed'));
  socket.on('data', (chunk: Buffer) => {
    try {
      for (const frame of decoder.push(chunk)) receive(frame);
    } catch (error) {
      log.warn({ error: messageOf(error) }, 'control connection dropped: not our protocol');
      socket.destroy();
    }
  });

  const receive = (frame: Frame) => {
    if (frame.kind === 'data' || frame.kind === 'end') {
      inbox?.push(frame);
      return;
    }
    if (frame.kind === 'cancel') {
      const { id } = cancelSchema.parse(decodeMessage(frame));
      running.get(id)?.abort(new OsmosisError('INTERRUPTED', 'cancelled by the client'));
      return;
    }
    if (frame.kind !== 'request') throw new Error(`a client may not send ${frame.kind}`);
    const request = requestSchema.parse(decodeMessage(frame));
    if (running.size >= REQUESTS_MAX) throw new Error('too many requests at once');
    const controller = new AbortController();
    running.set(request.id, controller);
    void answer(request.method, request.params, handlers, {
      signal: controller.signal,
      gone: connection.signal,
      sendData: (piece) => writeWithPressure(socket, encodeFrame('data', piece), controller.signal),
      sendEnd: (summary) => void socket.write(encodeMessage('end', summary)),
      frames: () => {
        inbox = new FrameQueue(socket, controller.signal);
        return inbox;
      },
    }).then((outcome) => {
      running.delete(request.id);
      if (!socket.destroyed) socket.write(responseFrame(request.id, outcome));
    });
  };
}

async function answer(name: string, params: unknown, handlers: Handlers, call: Call): Promise<object> {
  try {
    if (!isMethod(name))
      throw new OsmosisError(
        'AGENT_PROTOCOL',
        `this agent knows no method ${name}; are both of one version?`,
      );
    const parsed = METHODS[name].params.safeParse(params);
    if (!parsed.success) {
      throw new OsmosisError(
        'AGENT_PROTOCOL',
        `${name}: parameters refused: ${parsed.error.issues[0]?.message ?? 'invalid'}`,
      );
    }
    const handler = handlers[name] as (params: unknown, call: Call) => Promise<unknown>;
    return { result: await handler(parsed.data, call) };
  } catch (thrown) {
    const { code, message, phase, owner, cleanup } = asOsmosisError(thrown);
    return { error: { code, message, phase, owner, cleanup: [...cleanup] } };
  }
}

/** An answer that no frame holds is an error for its client, and nobody else. */
function responseFrame(id: number, outcome: object): Buffer {
  try {
    return encodeMessage('response', { id, ...outcome });
  } catch (thrown) {
    const error = { code: 'AGENT_PROTOCOL', message: `the answer can't be sent: ${messageOf(thrown)}` };
    return encodeMessage('response', { id, error: { ...error, cleanup: [] } });
  }
}

async function writeWithPressure(socket: Socket, bytes: Buffer, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  if (!socket.write(bytes)) await once(socket, 'drain', { signal });
}

/**
 * Data frames wait here for their reader; the socket is paused meanwhile, so at most one chunk of them is held. Once the
 * reader is done, well or not, the socket flows again: a paused one would never notice that its client is gone.
 */
class FrameQueue implements AsyncIterable<Frame> {
  readonly #socket: Socket;
  readonly #frames: Frame[] = [];
  #wake: (() => void) | undefined;
  #closed = false;

  constructor(socket: Socket, signal: AbortSignal) {
    this.#socket = socket;
    signal.addEventListener('abort', () => this.#close(), { once: true });
  }

  push(frame: Frame): void {
    if (this.#closed) return;
    this.#frames.push(frame);
    this.#socket.pause();
    this.#wake?.();
  }

  #close(): void {
    this.#closed = true;
    this.#socket.resume();
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Frame> {
    try {
      while (!this.#closed) {
        const frame = this.#frames.shift();
        if (frame === undefined) await this.#more();
        else yield frame;
        if (frame?.kind === 'end') return;
      }
    } finally {
      this.#close();
    }
  }

  #more(): Promise<void> {
    this.#socket.resume();
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}
