import type { Reply, Request } from 'zeromq';
import { describe } from '../../errors.ts';
import type { Clock } from '../../ports.ts';

/**
 * How long a reply may take from the socket to its reader once the connection is gone: the two come by different
 * ways, and a peer that answers and leaves must not count as lost.
 */
const lastReplyMilliseconds = 50;

/** A peer's message has no business being larger: manifests of 70,000 tensors are 10 MB. */
export const maxMessageBytes = 256 * 2 ** 20;

/**
 * One end of a worker link: a ZeroMQ socket with one peer, whose waits end at a deadline, when the peer vanishes, or
 * when {@link end} is called.
 */
export class LinkSocket {
  readonly #socket: Request | Reply;
  readonly #clock: Clock;
  readonly #lost: () => Error;
  #connected = false;
  #disconnected = false;
  /** Why no wait can succeed any more. */
  #ended: Error | null = null;
  #rejectWait: ((error: Error) => void) | null = null;
  #resolveDisconnected: (() => void) | null = null;
  #cancelLoss: () => void = () => {};
  #sending: Promise<void> = Promise.resolve();

  /** `lost` makes the error that waits end with when the peer's connection is gone. */
  constructor(socket: Request | Reply, clock: Clock, lost: () => Error) {
    this.#socket = socket;
    this.#clock = clock;
    this.#lost = lost;
    socket.events.on('handshake', () => {
      this.#connected = true;
    });
    socket.events.on('disconnect', () => {
      // A connection that never got through its handshake was not the peer's.
      if (!this.#connected || this.#disconnected) return;
      this.#disconnected = true;
      this.#resolveDisconnected?.();
      this.#cancelLoss = clock.after(lastReplyMilliseconds, () => this.end(lost()));
    });
  }

  /** A peer has connected, if only once. */
  get connected(): boolean {
    return this.#connected;
  }

  get disconnected(): boolean {
    return this.#disconnected;
  }

  /**
   * Waits for one step of the exchange, at most one at a time. Rejects with `late()` at the deadline; after that, as
   * after a loss or {@link end}, every later wait rejects with the same error.
   */
  wait<T>(milliseconds: number, late: () => Error, step: () => Promise<T>): Promise<T> {
    if (this.#ended !== null) return Promise.reject(this.#ended);
    return new Promise<T>((resolve, reject) => {
      const cancel = this.#clock.after(milliseconds, () => this.end(late()));
      const settled = () => {
        cancel();
        this.#rejectWait = null;
      };
      this.#rejectWait = (error) => {
        settled();
        reject(error);
      };
      step().then(
        (value) => {
          if (this.#ended !== null) return;
          settled();
          resolve(value);
        },
        (error: unknown) => this.end(this.#reasonOf(error)),
      );
    });
  }

  /** Ends the wait in progress and all later ones. The first reason stays. */
  end(reason: Error): void {
    if (this.#ended !== null) return;
    this.#ended = reason;
    this.#rejectWait?.(reason);
  }

  /** ZeroMQ sends large frames without a copy: `frame` must not change afterwards. */
  send(frame: Uint8Array): Promise<void> {
    // A socket takes one send at a time, and an abort may come while one is still on its way.
    this.#sending = this.#sending.then(
      () => this.#socket.send(frame),
      () => this.#socket.send(frame),
    );
    return this.#sending;
  }

  /** A message of this protocol is one frame; what comes in several is handed on joined, and fails to decode. */
  async receive(): Promise<Uint8Array> {
    const frames = await this.#socket.receive();
    return frames.length === 1 ? frames[0]! : Buffer.concat(frames);
  }

  /** Resolves when the peer's connection is gone, or after this time. */
  untilDisconnected(milliseconds: number): Promise<void> {
    if (this.#disconnected) return Promise.resolve();
    return new Promise((resolve) => {
      const cancel = this.#clock.after(milliseconds, resolve);
      this.#resolveDisconnected = () => {
        cancel();
        resolve();
      };
    });
  }

  /** A step that fails ends the exchange: the turn that the two sockets are at is not known any more. */
  #reasonOf(error: unknown): Error {
    // What a receive says when the connection it waits on goes away, before any event tells of it.
    if (error instanceof Error && 'code' in error && error.code === 'EAGAIN') return this.#lost();
    return error instanceof Error ? error : new Error(describe(error));
  }

  /** May be called twice. A frame that was sent just before still leaves, within the socket's linger. */
  close(): void {
    this.#cancelLoss();
    if (!this.#socket.closed) this.#socket.close();
  }
}
