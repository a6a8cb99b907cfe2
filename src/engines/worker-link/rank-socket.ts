import { strict as assert } from 'node:assert';
import { Request } from 'zeromq';
import { AbortedError, describe, type WeightcastError, WorkerLinkError } from '../../errors.ts';
import type { Clock } from '../../ports.ts';
import { type LinkEnd, LinkSocket, maxMessageBytes } from './link-socket.ts';
import { acceptWorkersOnly } from './worker-users.ts';

/**
 * How long an abort waits for the worker to disconnect. It may still be copying out of the link buffer, which is freed
 * afterwards; however many buckets were announced to it, one that takes longer hangs.
 */
const abortMilliseconds = 5_000;
/**
 * The same for a worker that has let the deadline of a step pass, or most of it, as one does that waits for a sibling which
 * hangs: it has had its time, and others wait for this abort.
 */
const hungMilliseconds = 500;
/** Of the deadline of a step: workers of one engine begin a step at about the same time. */
const mostOfStep = 3 / 4;

/** The steps as error messages name them. */
const activity = {
  open: 'opening the link buffer',
  load: 'loading a bucket',
  release: 'releasing the link buffer',
  finish: 'running its post-hook',
} as const;
export type Step = keyof typeof activity;

export interface RankSocketOptions {
  /** The device that the engine worker shares with this rank. */
  readonly deviceUuid: string;
  /** How long one answer may take, from the request or from the answer before it on. */
  readonly timeoutMilliseconds: number;
  readonly clock: Clock;
}

type Failure = new (message: string, options?: ErrorOptions) => WeightcastError;

/** A socket in which one request waits for its answer before the next. */
export function oneAtATime(): Request {
  // Relaxed and correlated, so that an abort can be sent while a reply is due.
  const socket = new Request({
    linger: 0,
    relaxed: true,
    correlate: true,
    maxMessageSize: maxMessageBytes,
  });
  acceptWorkersOnly(socket);
  return socket;
}

/**
 * The rank's end of a worker link, for either protocol: the socket that the engine worker connects to. If the worker never
 * connects, dies, hangs, or answers with a traceback or garbage, the oldest request in flight rejects with a `WorkerLinkError` that names the device and the step: at once, or at the deadline for a worker that does not connect or
 * hangs. All others reject with the same error.
 */
export class RankSocket {
  readonly address: string;
  readonly #options: RankSocketOptions;
  readonly #socket: LinkSocket;
  /** Of the oldest request in flight, or of the last one. */
  #step: Step = 'open';
  #inFlight = 0;
  /** A connection was refused: of a user that is not to have the weights, or for want of descriptors. */
  #hasRefused = false;
  /** Settles with the answer to the newest request. */
  #newest: Promise<unknown> = Promise.resolve();
  /** When it was to begin with what it was asked last; null while it has answered everything. */
  #busySince: number | null = null;
  /** The last exchange succeeded, and no new one has begun. */
  #finished = false;

  private constructor(address: string, socket: LinkEnd, options: RankSocketOptions) {
    this.address = address;
    this.#options = options;
    this.#socket = new LinkSocket(socket, options.clock, () => this.#lost());
    socket.events.on('accept:error', () => {
      this.#hasRefused = true;
    });
  }

  /** Rejects with `WorkerLinkError` if the address cannot be bound. */
  static async bind(
    address: string,
    end: LinkEnd & { bind(address: string): Promise<void> },
    options: RankSocketOptions,
  ): Promise<RankSocket> {
    const socket = new RankSocket(address, end, options);
    try {
      await end.bind(address);
    } catch (error) {
      socket.close();
      throw new WorkerLinkError(`cannot bind the worker link ${address}: ${describe(error)}`, {
        cause: error,
      });
    }
    return socket;
  }

  /** A worker is connected. */
  get hasWorker(): boolean {
    return this.#socket.connected && !this.#socket.disconnected;
  }

  /** No worker has connected yet for the exchange in progress. */
  get awaitsWorker(): boolean {
    return !this.#finished && !this.#socket.connected;
  }

  /** Sends a request and resolves with its reply. The answer to `finish` ends the exchange. */
  async ask(step: Step, request: Uint8Array): Promise<Uint8Array> {
    assert(
      this.#inFlight === 0 || this.#socket.takesSeveral,
      'this worker link handles one request at a time',
    );
    assert(step === 'open' || !this.#finished, 'an exchange begins with opening a buffer');
    this.#inFlight += 1;
    this.#finished = false;
    const sent = this.#socket.request(request);
    // Looked at in its turn, which may come after it has failed.
    sent.catch(() => {});
    const answer = this.#newest.then(() => this.#answer(step, sent));
    this.#newest = answer.catch(() => {});
    try {
      return await answer;
    } finally {
      this.#inFlight -= 1;
    }
  }

  /** The exchange succeeded: the worker may disconnect, and another one connect for the next exchange. */
  finish(): void {
    this.#finished = true;
    this.#socket.completed();
  }

  /** Ends the exchange because of the worker's reply; returns the error that all later requests reject with. */
  fail(fault: string, options: ErrorOptions, detail = '', type: Failure = WorkerLinkError): WeightcastError {
    const failure = this.#failure(fault, options, detail, type);
    this.#socket.end(failure);
    return failure;
  }

  /** Ends the exchange from this side. */
  end(reason: string): void {
    this.#socket.end(new AbortedError(reason));
  }

  /**
   * Sends the worker `message`, an abort, now or when it connects, and waits until it disconnects: until then it may still
   * read the link buffer. Not for ever.
   */
  async drainPeer(message: Uint8Array, milliseconds?: number): Promise<void> {
    const usual = this.#hasHadItsTime ? hungMilliseconds : abortMilliseconds;
    await this.#socket.drainPeer(message, milliseconds ?? usual);
  }

  /** May be called twice. */
  close(): void {
    this.end(`the worker link of device ${this.#options.deviceUuid} was closed`);
    this.#socket.close();
  }

  get #hasHadItsTime(): boolean {
    const { clock, timeoutMilliseconds } = this.#options;
    if (!this.#socket.connected || this.#busySince === null) return false;
    return clock.now() - this.#busySince >= mostOfStep * timeoutMilliseconds;
  }

  #answer(step: Step, sent: Promise<void>): Promise<Uint8Array> {
    this.#step = step;
    const { timeoutMilliseconds, clock } = this.#options;
    this.#busySince ??= clock.now();
    const receive = async () => {
      await sent;
      const answer = await this.#socket.receive();
      this.#busySince = null;
      return answer;
    };
    return this.#socket.wait(timeoutMilliseconds, () => this.#late(), receive);
  }

  #lost(): WeightcastError {
    return this.#failure(`closed the connection ${this.#inFlight > 0 ? 'while' : 'after'}`);
  }

  #late(): WeightcastError {
    const { timeoutMilliseconds } = this.#options;
    const fault = this.#socket.connected ? 'did not answer' : 'did not connect';
    const detail =
      this.#hasRefused && !this.#socket.connected
        ? '; a connection was refused: its process may be of another user (WEIGHTCAST_WORKER_UIDS)'
        : '';
    return this.#failure(`${fault} within ${timeoutMilliseconds} ms when`, {}, detail);
  }

  #failure(
    fault: string,
    options?: ErrorOptions,
    detail = '',
    type: Failure = WorkerLinkError,
  ): WeightcastError {
    const message = `the engine worker on device ${this.#options.deviceUuid} ${fault} ${activity[this.#step]}`;
    return new type(message + detail, options);
  }
}

/** The line of a traceback that has the error message: Python's last, JavaScript's first. */
export function tracebackSummary(traceback: string): string {
  const lines = traceback.split('\n').filter((line) => line.trim() !== '');
  const line = traceback.startsWith('Traceback') ? lines.at(-1) : lines[0];
  return line?.trim() ?? 'no reason given';
}
