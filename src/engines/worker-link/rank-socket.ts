import { strict as assert } from 'node:assert';
import { Request } from 'zeromq';
import { AbortedError, describe, WorkerLinkError } from '../../errors.ts';
import type { Clock } from '../../ports.ts';
import { LinkSocket, maxMessageBytes } from './link-socket.ts';

/**
 * How long an abort waits for the worker to hang up. It may be in the middle of copying a bucket, and what it copies from
 * is freed afterwards.
 */
export const abortMilliseconds = 5_000;

/** For messages to people. */
const activity = {
  open: 'opening the link buffer',
  load: 'loading a bucket',
  release: 'releasing the link buffer',
  finish: 'running its post-hook',
} as const;
export type Step = keyof typeof activity;

export interface RankSocketOptions {
  /** Of the device that the engine worker shares with this rank. */
  readonly deviceUuid: string;
  /** How long one request may take, its answer included. */
  readonly timeoutMilliseconds: number;
  readonly clock: Clock;
}

/**
 * The rank's end of a worker link, whatever language is spoken over it: the REQ socket that the engine worker connects
 * to. Whatever the worker does wrong — never connect, die, hang, answer with a traceback or with something else — the
 * request in progress rejects with a `WorkerLinkError` that names the device and the step, a death at once and the
 * others at the deadline; later requests reject with the same.
 */
export class RankSocket {
  readonly address: string;
  readonly #options: RankSocketOptions;
  readonly #socket: LinkSocket;
  #step: Step = 'open';
  #busy = false;
  /** Whether the exchange in progress, or the last one, went well to its end. */
  #finished = false;

  private constructor(address: string, socket: Request, options: RankSocketOptions) {
    this.address = address;
    this.#options = options;
    this.#socket = new LinkSocket(socket, options.clock, () => this.#lost());
  }

  /** Rejects with `WorkerLinkError` if the address cannot be bound. */
  static async bind(address: string, options: RankSocketOptions): Promise<RankSocket> {
    // Relaxed and correlated, so that an abort may overtake a reply that is still due.
    const request = new Request({
      linger: 0,
      relaxed: true,
      correlate: true,
      maxMessageSize: maxMessageBytes,
    });
    const socket = new RankSocket(address, request, options);
    try {
      await request.bind(address);
    } catch (error) {
      socket.close();
      throw new WorkerLinkError(`cannot bind the worker link ${address}: ${describe(error)}`, {
        cause: error,
      });
    }
    return socket;
  }

  /** A worker takes part that has not hung up. */
  get listening(): boolean {
    return this.#socket.connected && !this.#socket.disconnected;
  }

  /** No worker has come for the exchange in progress. */
  get awaitsWorker(): boolean {
    return !this.#finished && !this.#socket.connected;
  }

  /** Sends a request and resolves with its reply. The answer to `finish` ends the exchange. */
  async ask(step: Step, request: Uint8Array): Promise<Uint8Array> {
    assert(!this.#busy, 'a worker link takes one request at a time');
    assert(step === 'open' || !this.#finished, 'an exchange begins with opening a buffer');
    this.#busy = true;
    this.#step = step;
    this.#finished = false;
    try {
      return await this.#socket.wait(
        this.#options.timeoutMilliseconds,
        () => this.#late(),
        () => this.#socket.request(request),
      );
    } finally {
      this.#busy = false;
    }
  }

  /** The exchange has come to its good end: the worker may leave, and another one come for the next. */
  finish(): void {
    this.#finished = true;
    this.#socket.completed();
  }

  /** Ends the exchange for what the worker said; returns the error that all requests reject with from here. */
  fail(fault: string, options: ErrorOptions, detail = ''): WorkerLinkError {
    const failure = this.#failure(fault, options, detail);
    this.#socket.end(failure);
    return failure;
  }

  /** Ends the exchange from this side. */
  end(reason: string): void {
    this.#socket.end(new AbortedError(reason));
  }

  /**
   * Tells a worker that the exchange has ended, now or when it comes, and waits until it hangs up: until then it may
   * still read the link buffer.
   */
  async dismiss(message: Uint8Array, milliseconds: number): Promise<void> {
    await this.#socket.dismiss(message, milliseconds);
  }

  /** May be called twice. */
  close(): void {
    this.end(`the worker link of device ${this.#options.deviceUuid} was closed`);
    this.#socket.close();
  }

  #lost(): WorkerLinkError {
    return this.#failure(`closed the connection ${this.#busy ? 'while' : 'after'}`);
  }

  #late(): WorkerLinkError {
    const { timeoutMilliseconds } = this.#options;
    const fault = this.#socket.connected ? 'did not answer' : 'did not connect';
    return this.#failure(`${fault} within ${timeoutMilliseconds} ms when`);
  }

  #failure(fault: string, options?: ErrorOptions, detail = ''): WorkerLinkError {
    const message = `the engine worker on device ${this.#options.deviceUuid} ${fault} ${activity[this.#step]}`;
    return new WorkerLinkError(message + detail, options);
  }
}

/** The line of a traceback that says what went wrong: Python's last one, JavaScript's first. */
export function tellingLine(traceback: string): string {
  const lines = traceback.split('\n').filter((line) => line.trim() !== '');
  const line = traceback.startsWith('Traceback') ? lines.at(-1) : lines[0];
  return line?.trim() ?? 'no reason given';
}
