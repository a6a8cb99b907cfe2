import { randomBytes } from 'node:crypto';
import { describe, PartsRefusedError, WorkerLinkError } from '../../errors.ts';
import { decodeReply, encodeRequest, type LinkReply, type LinkRequest, protocolVersion } from './messages.ts';
import { RankSocket, type RankSocketOptions, type Step, tracebackSummary } from './rank-socket.ts';
import { RequestQueue } from './request-queue.ts';
import type {
  ArrivedDigests,
  KeptParts,
  LinkBuffer,
  LinkTensor,
  LiveDigests,
  WorkerLink,
} from './worker-link.ts';

export interface MessagePackWorkerLinkOptions extends RankSocketOptions {
  readonly epoch: number;
  /** `checkpoint@digest`, for the worker's records. */
  readonly version: string;
  /** Whether the worker is asked for the digests of what arrived. Default: true. */
  readonly report?: boolean;
  /** Layouts of live tensors whose names are known already, to have the worker say what it holds. Default: not asked. */
  readonly liveLayouts?: readonly string[];
  /** Default: false. */
  readonly acceptUnproven?: boolean;
  /** How many exchanges the update has. Default: 1. */
  readonly exchanges?: number;
  /** Whether the worker is to record which part of each tensor its model reads. Default: false. */
  readonly parts?: boolean;
  /** The worker's token of what it has recorded: parts follow that are cut by it. Default: whole tensors follow. */
  readonly kept?: string | null;
  /** How long the worker has to wait for each further request, at least. Default: as long as it does anyway. */
  readonly silenceSeconds?: number;
  /** Version of the link that the worker speaks. Default: this end's. */
  readonly protocol?: number;
}

/** The rank's end of weightcast's own worker link (messages.ts). For its errors see {@link RankSocket}. */
export class MessagePackWorkerLink implements WorkerLink {
  readonly reports = true;
  readonly #options: MessagePackWorkerLinkOptions;
  readonly #socket: RankSocket;
  #live: LiveDigests | null = null;
  #kept: KeptParts | null = null;
  #readsAhead = false;

  private constructor(socket: RankSocket, options: MessagePackWorkerLinkOptions) {
    this.#socket = socket;
    this.#options = options;
  }

  /** Rejects with `WorkerLinkError` if the address cannot be bound. */
  static async bind(options: MessagePackWorkerLinkOptions): Promise<MessagePackWorkerLink> {
    // Random digits, because an earlier socket of the same epoch may still be closing. The leading @ makes it an
    // abstract socket, which leaves no file behind.
    const unique = randomBytes(4).toString('hex');
    const address = `ipc://@weightcast-${options.deviceUuid}-${options.epoch}-${unique}.sock`;
    return new MessagePackWorkerLink(await RankSocket.bind(address, new RequestQueue(), options), options);
  }

  /** As the worker has said when it opened the link buffer. */
  get takesSeveral(): boolean {
    return this.#readsAhead;
  }

  get address(): string {
    return this.#socket.address;
  }

  /** This link carries every dtype of the safetensors format. */
  check(): void {}

  async open(buffer: LinkBuffer): Promise<void> {
    const { deviceUuid: device, epoch, version, report = true, protocol = protocolVersion } = this.#options;
    const { liveLayouts, acceptUnproven = false, exchanges = 1, parts = false, kept = null } = this.#options;
    const { silenceSeconds } = this.#options;
    const wait = silenceSeconds === undefined ? {} : { silenceSeconds };
    const asked = { report, installed: liveLayouts !== undefined, acceptUnproven, exchanges, ...wait };
    const ofParts = { ...(parts && { parts }), ...(kept !== null && { kept }) };
    const facts = { protocol, device, epoch, version, ...asked, ...ofParts };
    const reply = await this.#ask({ type: 'open', ...facts, ...buffer });
    // A worker of a version that does not know of parts would read beyond them.
    if (kept !== null && reply.parts !== true) {
      throw this.#socket.fail('does not say that it takes parts of tensors when', {}, '', PartsRefusedError);
    }
    this.#readsAhead = reply.readsAhead ?? false;
  }

  async load(tensors: readonly LinkTensor[]): Promise<void> {
    await this.#ask({ type: 'load', tensors });
  }

  async release(): Promise<void> {
    await this.#ask({ type: 'release' });
  }

  async finish(): Promise<ArrivedDigests | null> {
    const layouts = (this.#options.liveLayouts ?? []).map((layout) => Buffer.from(layout, 'hex'));
    const reply = await this.#ask({ type: 'finish', layouts });
    this.#live = reply.installed ?? null;
    this.#kept = reply.kept ?? null;
    this.#socket.finish();
    return reply.report ?? null;
  }

  get live(): LiveDigests | null {
    return this.#live;
  }

  get kept(): KeptParts | null {
    return this.#kept;
  }

  async abort(reason: string): Promise<void> {
    this.#socket.end(reason);
    if (this.#socket.hasWorker) await this.#socket.drainPeer(encodeRequest({ type: 'abort', reason }));
    this.#socket.close();
  }

  close(): void {
    this.#socket.close();
  }

  async #ask(request: LinkRequest & { type: Step }): Promise<LinkReply & { ok: true }> {
    const reply = this.#read(await this.#socket.ask(request.type, encodeRequest(request)));
    if (reply.ok) return reply;
    const isOfParts = request.type === 'open' && request.kept !== undefined;
    const summary = `: ${tracebackSummary(reply.error)}`;
    const type = isOfParts ? PartsRefusedError : WorkerLinkError;
    throw this.#socket.fail('failed', { cause: reply.error }, summary, type);
  }

  #read(frame: Uint8Array): LinkReply {
    try {
      return decodeReply(frame);
    } catch (error) {
      throw this.#socket.fail(`answered with garbage (${describe(error)}) when`, { cause: error });
    }
  }
}
