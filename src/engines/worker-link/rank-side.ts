import { strict as assert } from 'node:assert';
import { randomBytes } from 'node:crypto';
import { Request } from 'zeromq';
import { AbortedError, describe, WorkerLinkError } from '../../errors.ts';
import type { Clock } from '../../ports.ts';
import { LinkSocket, maxMessageBytes } from './link-socket.ts';
import { decodeReply, encodeRequest, type LinkReply, type LinkRequest, protocolVersion } from './messages.ts';
import type { InstalledReport, LinkBuffer, LinkTensor, WorkerLink } from './worker-link.ts';

/** How long an abort waits for the worker to hang up: it may be in the middle of copying a bucket. */
const abortMilliseconds = 1_000;

/** For messages to people. */
const activity = {
  open: 'opening the link buffer',
  load: 'loading a bucket',
  release: 'releasing the link buffer',
  finish: 'running its post-hook',
} as const;
type Step = keyof typeof activity;

export interface MessagePackWorkerLinkOptions {
  /** Of the device that the engine worker shares with this rank. */
  readonly deviceUuid: string;
  readonly epoch: number;
  /** `checkpoint@digest`: what the worker is told it gets. */
  readonly version: string;
  /** How long one request may take, its answer included. */
  readonly timeoutMilliseconds: number;
  readonly clock: Clock;
}

/**
 * The rank's end of our own worker link (messages.ts). Whatever the worker does wrong — never connect, die, hang,
 * answer with a traceback or with something else — the request in progress rejects with a `WorkerLinkError` that
 * names the device and the step, a death at once and the others at the deadline; later requests reject with the same.
 */
export class MessagePackWorkerLink implements WorkerLink {
  readonly address: string;
  readonly #options: MessagePackWorkerLinkOptions;
  readonly #socket: LinkSocket;
  #step: Step = 'open';
  #busy = false;
  #finished = false;

  private constructor(address: string, socket: Request, options: MessagePackWorkerLinkOptions) {
    this.address = address;
    this.#options = options;
    this.#socket = new LinkSocket(socket, options.clock, () => this.#lost());
  }

  /** Rejects with `WorkerLinkError` if the address cannot be bound. */
  static async bind(options: MessagePackWorkerLinkOptions): Promise<MessagePackWorkerLink> {
    // The random part keeps an attempt that is still closing its socket, or a rank that was started anew with the
    // same epoch, from standing in the way. The leading @ makes it an abstract socket: no file is left behind.
    const unique = randomBytes(4).toString('hex');
    const address = `ipc://@weightcast-${options.deviceUuid}-${options.epoch}-${unique}.sock`;
    // Relaxed and correlated, so that an abort may overtake a reply that is still due.
    const socket = new Request({
      linger: 0,
      relaxed: true,
      correlate: true,
      maxMessageSize: maxMessageBytes,
    });
    const link = new MessagePackWorkerLink(address, socket, options);
    try {
      await socket.bind(address);
    } catch (error) {
      link.close();
      throw new WorkerLinkError(`cannot bind the worker link ${address}: ${describe(error)}`, {
        cause: error,
      });
    }
    return link;
  }

  async open(buffer: LinkBuffer): Promise<void> {
    const { deviceUuid: device, epoch, version } = this.#options;
    const { handle, bytes } = buffer;
    await this.#ask({ type: 'open', protocol: protocolVersion, device, epoch, version, handle, bytes });
  }

  async load(tensors: readonly LinkTensor[]): Promise<void> {
    await this.#ask({ type: 'load', tensors });
  }

  async release(): Promise<void> {
    await this.#ask({ type: 'release' });
  }

  async finish(): Promise<InstalledReport | null> {
    const reply = await this.#ask({ type: 'finish' });
    this.#finished = true;
    return reply.report ?? null;
  }

  async abort(reason: string): Promise<void> {
    this.#socket.end(new AbortedError(reason));
    const listening = this.#socket.connected && !this.#socket.disconnected && !this.#finished;
    if (listening) {
      // Closing its end is the worker's answer. Until then it may still read the link buffer.
      const gone = this.#socket.untilDisconnected(abortMilliseconds);
      this.#socket.send(encodeRequest({ type: 'abort', reason })).catch(() => {});
      await gone;
    }
    this.#socket.close();
  }

  close(): void {
    this.#socket.end(new AbortedError(`the worker link of device ${this.#options.deviceUuid} was closed`));
    this.#socket.close();
  }

  async #ask(request: LinkRequest & { type: Step }): Promise<LinkReply & { ok: true }> {
    assert(!this.#busy, 'a worker link takes one request at a time');
    this.#busy = true;
    this.#step = request.type;
    try {
      const { timeoutMilliseconds } = this.#options;
      const frame = await this.#socket.wait(
        timeoutMilliseconds,
        () => this.#late(),
        async () => {
          await this.#socket.send(encodeRequest(request));
          return await this.#socket.receive();
        },
      );
      return this.#read(frame);
    } finally {
      this.#busy = false;
    }
  }

  #read(frame: Uint8Array): LinkReply & { ok: true } {
    let reply: LinkReply;
    try {
      reply = decodeReply(frame);
    } catch (error) {
      const failure = this.#failure(`answered with garbage (${describe(error)}) when`, { cause: error });
      this.#socket.end(failure);
      throw failure;
    }
    if (reply.ok) return reply;
    const failure = this.#failure('failed', { cause: reply.error }, `: ${lastLine(reply.error)}`);
    this.#socket.end(failure);
    throw failure;
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
function lastLine(traceback: string): string {
  const lines = traceback.split('\n').filter((line) => line.trim() !== '');
  const line = traceback.startsWith('Traceback') ? lines.at(-1) : lines[0];
  return line?.trim() ?? 'no reason given';
}
