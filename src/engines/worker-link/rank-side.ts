import { randomBytes } from 'node:crypto';
import { describe } from '../../errors.ts';
import { decodeReply, encodeRequest, type LinkReply, type LinkRequest, protocolVersion } from './messages.ts';
import {
  abortMilliseconds,
  RankSocket,
  type RankSocketOptions,
  type Step,
  tellingLine,
} from './rank-socket.ts';
import type { ArrivedDigests, LinkBuffer, LinkTensor, WorkerLink } from './worker-link.ts';

export interface MessagePackWorkerLinkOptions extends RankSocketOptions {
  readonly epoch: number;
  /** `checkpoint@digest`: what the worker is told it gets. */
  readonly version: string;
  /** Whether the worker is to say at the end what it holds; true unless given. */
  readonly report?: boolean;
}

/** The rank's end of our own worker link (messages.ts). What goes wrong is told as {@link RankSocket} says. */
export class MessagePackWorkerLink implements WorkerLink {
  readonly #options: MessagePackWorkerLinkOptions;
  readonly #socket: RankSocket;

  private constructor(socket: RankSocket, options: MessagePackWorkerLinkOptions) {
    this.#socket = socket;
    this.#options = options;
  }

  /** Rejects with `WorkerLinkError` if the address cannot be bound. */
  static async bind(options: MessagePackWorkerLinkOptions): Promise<MessagePackWorkerLink> {
    // The random part keeps an attempt that is still closing its socket, or a rank that was started anew with the
    // same epoch, from standing in the way. The leading @ makes it an abstract socket: no file is left behind.
    const unique = randomBytes(4).toString('hex');
    const address = `ipc://@weightcast-${options.deviceUuid}-${options.epoch}-${unique}.sock`;
    return new MessagePackWorkerLink(await RankSocket.bind(address, options), options);
  }

  get address(): string {
    return this.#socket.address;
  }

  /** Tensors are announced in the words of the safetensors format: there is none that could not be. */
  check(): void {}

  async open(buffer: LinkBuffer): Promise<void> {
    const { deviceUuid: device, epoch, version, report = true } = this.#options;
    await this.#ask({ type: 'open', protocol: protocolVersion, device, epoch, version, report, ...buffer });
  }

  async load(tensors: readonly LinkTensor[]): Promise<void> {
    await this.#ask({ type: 'load', tensors });
  }

  async release(): Promise<void> {
    await this.#ask({ type: 'release' });
  }

  async finish(): Promise<ArrivedDigests | null> {
    const reply = await this.#ask({ type: 'finish' });
    this.#socket.finish();
    return reply.report ?? null;
  }

  async abort(reason: string): Promise<void> {
    this.#socket.end(reason);
    if (this.#socket.listening) {
      await this.#socket.dismiss(encodeRequest({ type: 'abort', reason }), abortMilliseconds);
    }
    this.#socket.close();
  }

  close(): void {
    this.#socket.close();
  }

  async #ask(request: LinkRequest & { type: Step }): Promise<LinkReply & { ok: true }> {
    const reply = this.#read(await this.#socket.ask(request.type, encodeRequest(request)));
    if (reply.ok) return reply;
    throw this.#socket.fail('failed', { cause: reply.error }, `: ${tellingLine(reply.error)}`);
  }

  #read(frame: Uint8Array): LinkReply {
    try {
      return decodeReply(frame);
    } catch (error) {
      throw this.#socket.fail(`answered with garbage (${describe(error)}) when`, { cause: error });
    }
  }
}
