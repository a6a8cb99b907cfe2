import { Reply } from 'zeromq';
import {
  AbortedError,
  DeadlineError,
  describe,
  PeerLostError,
  ProtocolError,
  WorkerLinkError,
} from '../../errors.ts';
import type { Clock } from '../../ports.ts';
import { LinkSocket, maxMessageBytes } from './link-socket.ts';
import {
  decodeRequest,
  encodeReply,
  type LinkReply,
  type LinkRequest,
  type OpenRequest,
  protocolVersion,
  understands,
} from './messages.ts';
import type { ArrivedDigests, KeptParts, LinkTensor, LiveDigests } from './worker-link.ts';

/** The rank listens before the update is triggered, so an address that does not answer for this long is closed. */
const connectMilliseconds = 2_000;

/** How long the socket tries to send the last reply after it is closed. */
const lingerMilliseconds = 1_000;

/** What an engine worker does with the weights. Any method may throw anything at any time. */
export interface WeightReceiver {
  open(buffer: OpenedBuffer): void | Promise<void>;
  /** Resolves when these tensors are copied out of the link buffer. */
  load(tensors: readonly LinkTensor[]): Promise<void>;
  /** Drops the link buffer. Called exactly once after `open` succeeded, even if the exchange fails. */
  release(): void | Promise<void>;
  /** The post-hook. The digests of what arrived are sent if the rank asked for them. */
  finish(): Promise<ArrivedDigests | null>;
  /** After `finish`, if the rank has asked: what the model holds now. A receiver without it does not say. */
  live?(): Promise<LiveDigests>;
  /** What it knows of the parts that it keeps. A receiver without it takes whole tensors only. */
  readonly record?: PartsRecord | undefined;
}

/** Which part of each tensor a worker keeps: learned from whole tensors, and what parts are cut by afterwards. */
export interface PartsRecord {
  /** That of the last record; null if there is none. */
  readonly token: string | null;
  /** After `finish` of an exchange in which it was to record; null if it could not. */
  kept(): KeptParts | null;
}

/** The link buffer, and the update that uses it. */
export interface OpenedBuffer {
  readonly handle: Uint8Array;
  readonly bytes: number;
  readonly epoch: number;
  /** `checkpoint@digest`. */
  readonly version: string;
  /** Whether the rank asks for the digests of what arrived. */
  readonly report: boolean;
}

/** What was received, as the rank announced it. */
export interface ReceivedWeights {
  readonly epoch: number;
  readonly version: string;
}

export interface ReceiveOptions {
  readonly address: string;
  /** The worker's own device; an exchange for another one is refused. */
  readonly deviceUuid: string;
  /** Longest time between two requests, and longest run of one method of the receiver. The rank may ask for more. */
  readonly timeoutMilliseconds: number;
  readonly clock: Clock;
}

/**
 * The engine worker's end of one exchange (messages.ts): connects to the rank, serves its requests, and resolves when the
 * post-hook has run and the rank has its reply. Rejects with the receiver's own error (after the rank has read it and
 * disconnected), `AbortedError` if the rank aborts, `PeerLostError` if the rank disconnects or does not listen,
 * `DeadlineError` if it is silent, `ProtocolError` if it breaks the protocol. When the promise settles no method of the
 * receiver is running, unless one has overrun the timeout.
 */
export async function receiveWeights(
  options: ReceiveOptions,
  receiver: WeightReceiver,
): Promise<ReceivedWeights> {
  const socket = new Reply({ linger: lingerMilliseconds, maxMessageSize: maxMessageBytes });
  const exchange = new Exchange(options, receiver, socket);
  try {
    socket.connect(options.address);
    return await exchange.run();
  } finally {
    await exchange.close();
  }
}

class Exchange {
  readonly #options: ReceiveOptions;
  readonly #receiver: WeightReceiver;
  readonly #socket: LinkSocket;
  readonly #cancelConnecting: () => void;
  #opened = false;
  #announced: ReceivedWeights | null = null;
  #timeoutMilliseconds: number;
  /** The rank has asked what the model holds after the update, and what it keeps of each tensor. */
  #tellsLive = false;
  #tellsKept = false;
  /** The receiver's method in progress, or the last one. */
  #working: Promise<unknown> = Promise.resolve();

  constructor(options: ReceiveOptions, receiver: WeightReceiver, socket: Reply) {
    const { address, clock } = options;
    this.#options = options;
    this.#receiver = receiver;
    this.#timeoutMilliseconds = options.timeoutMilliseconds;
    this.#socket = new LinkSocket(
      socket,
      clock,
      () => new PeerLostError(`the rank at ${address} has vanished`),
    );
    this.#cancelConnecting = clock.after(connectMilliseconds, () => {
      if (!this.#socket.connected) this.#socket.end(new PeerLostError(`no rank listens at ${address}`));
    });
  }

  async run(): Promise<ReceivedWeights> {
    for (;;) {
      const request = await this.#nextRequest();
      if (request.type === 'abort') throw new AbortedError(`the rank aborted the update: ${request.reason}`);
      let reply: LinkReply;
      try {
        reply = await this.#serve(request);
      } catch (error) {
        await this.#refuse(error);
        throw error;
      }
      await this.#socket.send(encodeReply(reply));
      if (request.type === 'finish') return this.#announced!;
    }
  }

  async close(): Promise<void> {
    this.#cancelConnecting();
    await this.#settleWork();
    try {
      if (this.#opened) await this.#receiver.release();
    } finally {
      this.#socket.close();
    }
  }

  async #nextRequest(): Promise<LinkRequest> {
    const { address } = this.#options;
    const timeoutMilliseconds = this.#timeoutMilliseconds;
    const late = () => new DeadlineError(`the rank at ${address} was silent for ${timeoutMilliseconds} ms`);
    const frame = await this.#socket.wait(timeoutMilliseconds, late, () => this.#socket.receive());
    try {
      return decodeRequest(frame);
    } catch (error) {
      await this.#refuse(error);
      throw error;
    }
  }

  async #serve(request: Exclude<LinkRequest, { type: 'abort' }>): Promise<LinkReply> {
    if (request.type !== 'open' && request.type !== 'finish' && !this.#opened) {
      throw new ProtocolError(`the rank asked to ${request.type} before it opened a link buffer`);
    }
    switch (request.type) {
      case 'open':
        return { ok: true, ...(await this.#open(request)) };
      case 'load':
        await this.#work(() => this.#receiver.load(request.tensors));
        return { ok: true };
      case 'release':
        this.#opened = false;
        await this.#work(() => this.#receiver.release());
        return { ok: true };
      case 'finish':
        if (this.#announced === null || this.#opened) {
          throw new ProtocolError('the rank asked to finish before it opened and released a link buffer');
        }
        return { ok: true, ...(await this.#finish(request.layouts ?? [])) };
    }
  }

  async #finish(
    layouts: readonly Uint8Array[],
  ): Promise<Pick<LinkReply & { ok: true }, 'report' | 'installed' | 'kept'>> {
    const report = await this.#work(() => this.#receiver.finish());
    const kept = this.#tellsKept ? this.#receiver.record!.kept() : null;
    if (!this.#tellsLive || this.#receiver.live === undefined) return { report, kept };
    const live = await this.#work(() => this.#receiver.live!());
    const isKnown = layouts.some((layout) => Buffer.from(layout).toString('hex') === live.layout);
    return { report, kept, installed: isKnown ? { ...live, names: null } : live };
  }

  /** Returns what the reply says of parts. */
  async #open(request: OpenRequest): Promise<{ readonly parts?: boolean }> {
    const { deviceUuid } = this.#options;
    const { record } = this.#receiver;
    if (!understands(request.protocol)) {
      const versions = `${request.protocol}, this worker ${protocolVersion}`;
      throw new ProtocolError(`the rank speaks version ${versions} of the worker link`);
    }
    if (request.device !== deviceUuid) {
      throw new WorkerLinkError(`the rank is on device ${request.device}, this worker on ${deviceUuid}`);
    }
    if (this.#announced !== null) throw new ProtocolError('the rank opened a second link buffer');
    const takesParts = request.kept !== undefined;
    if (takesParts && record?.token !== request.kept) {
      throw new WorkerLinkError(
        'this worker keeps no record of the parts that the rank has: send it whole tensors',
      );
    }
    this.#announced = { epoch: request.epoch, version: request.version };
    this.#tellsLive = request.installed ?? false;
    this.#tellsKept = record !== undefined && !takesParts && request.parts === true;
    this.#timeoutMilliseconds = Math.max(this.#timeoutMilliseconds, (request.silenceSeconds ?? 0) * 1_000);
    await this.#work(() => this.#receiver.open(request));
    this.#opened = true;
    return takesParts || this.#tellsKept ? { parts: true } : {};
  }

  /** Runs a method of the receiver; rejects early if the rank disconnects. */
  async #work<T>(method: () => T | Promise<T>): Promise<T> {
    const timeoutMilliseconds = this.#timeoutMilliseconds;
    const late = () =>
      new DeadlineError(`the engine worker was busy for more than ${timeoutMilliseconds} ms`);
    const work = (async () => method())();
    this.#working = work;
    // The exchange outlives an error of the receiver: the rank must get it as the reply.
    const outcome = await this.#socket.wait(timeoutMilliseconds, late, () =>
      work.then(
        (value) => ({ ok: true, value }) as const,
        (thrown: unknown) => ({ ok: false, thrown }) as const,
      ),
    );
    if (outcome.ok) return outcome.value;
    throw outcome.thrown;
  }

  /** Waits for the receiver's running method, which may still copy from memory that is freed next. */
  async #settleWork(): Promise<void> {
    await new Promise<void>((resolve) => {
      const cancel = this.#options.clock.after(this.#timeoutMilliseconds, resolve);
      const settled = () => {
        cancel();
        resolve();
      };
      this.#working.then(settled, settled);
    });
  }

  /** Answers all that the rank has asked with the error, until it has read it: it aborts or disconnects. */
  async #refuse(error: unknown): Promise<void> {
    const traceback = error instanceof Error ? (error.stack ?? error.message) : describe(error);
    const late = () => new DeadlineError('the rank did not read the error');
    const deliver = async () => {
      for (;;) {
        await this.#socket.send(encodeReply({ ok: false, error: traceback }));
        if (isAbort(await this.#socket.receive())) return;
      }
    };
    // However the wait ends, the exchange rejects with the receiver's error.
    await this.#socket.wait(this.#timeoutMilliseconds, late, deliver).catch(() => {});
  }
}

function isAbort(frame: Uint8Array): boolean {
  try {
    return decodeRequest(frame).type === 'abort';
  } catch {
    return false;
  }
}
