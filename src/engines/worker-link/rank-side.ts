import { randomBytes } from 'node:crypto';
import { Request } from 'zeromq';
import { AbortedError, WeightcastError, WorkerLinkError } from '../../errors.ts';
import type { Clock } from '../../ports.ts';
import { LinkSocket, maxMessageBytes } from './link-socket.ts';
import { decodeReply, encodeRequest, type LinkReply, type LinkRequest, protocolVersion } from './messages.ts';
import type { InstalledReport, LinkBuffer, LinkTensor, WorkerLink } from './worker-link.ts';

export interface RankSideOptions {
  readonly deviceUuid: string;
  readonly epoch: number;
  /** `checkpoint@digest`. */
  readonly version: string;
  /** For each request; the first includes the worker's connecting. */
  readonly timeoutMilliseconds: number;
  readonly clock: Clock;
}

/** A worker that hears of an abort closes its socket; one that hangs does not, and is not waited for longer. */
const abortMilliseconds = 1_000;

/** The rank's end of the worker link that messages.ts describes. */
export class MessagePackWorkerLink implements WorkerLink {
  readonly address: string;
  readonly #options: RankSideOptions;
  readonly #link: LinkSocket;

  private constructor(address: string, options: RankSideOptions, socket: Request) {
    this.address = address;
    this.#options = options;
    this.#link = new LinkSocket(socket, options.clock, () => this.#error('its engine worker is gone'));
  }

  /** Binds an abstract socket: no file to leave behind, and gone with the process. */
  static async bind(options: RankSideOptions): Promise<MessagePackWorkerLink> {
    const { deviceUuid, epoch } = options;
    const address = `ipc://@weightcast-${deviceUuid}-${epoch}-${randomBytes(4).toString('hex')}.sock`;
    // Relaxed, so that an abort can be sent while a reply is due; correlated, so that the stale reply is dropped.
    const socket = new Request({ linger: 0, relaxed: true, correlate: true, maxMessageSize: maxMessageBytes });
    const link = new MessagePackWorkerLink(address, options, socket);
    try {
      await socket.bind(address);
    } catch (error) {
      link.close();
      throw new WorkerLinkError(`cannot bind the worker link of ${deviceUuid}: ${(error as Error).message}`);
    }
    return link;
  }

  async open({ handle, bytes }: LinkBuffer): Promise<void> {
    const { deviceUuid: device, epoch, version } = this.#options;
    await this.#ask({ type: 'open', protocol: protocolVersion, device, epoch, version, handle, bytes });
  }

  async load(tensors: readonly LinkTensor[]): Promise<void> {
    await this.#ask({ type: 'load', tensors: tensors.map((tensor) => ({ ...tensor, shape: [...tensor.shape] })) });
  }

  async release(): Promise<void> {
    await this.#ask({ type: 'release' });
  }

  async finish(): Promise<InstalledReport | null> {
    const reply = await this.#ask({ type: 'finish' });
    return reply.report ?? null;
  }

  async abort(reason: string): Promise<void> {
    this.#link.end(new AbortedError(`the worker link of ${this.#options.deviceUuid} was aborted: ${reason}`));
    if (!this.#link.connected || this.#link.disconnected) return;
    // Nobody may be there to take it: what counts is that the worker's end closes, or that the time is up.
    this.#link.send(encodeRequest({ type: 'abort', reason })).catch(() => {});
    await this.#link.untilDisconnected(abortMilliseconds);
  }

  close(): void {
    this.#link.end(new AbortedError(`the worker link of ${this.#options.deviceUuid} is closed`));
    this.#link.close();
  }

  /** One request and its answer. Rejects with the worker's traceback if it answers with one. */
  async #ask(request: LinkRequest): Promise<LinkReply & { ok: true }> {
    const { timeoutMilliseconds } = this.#options;
    const late = () => {
      const what = this.#link.connected ? `did not answer "${request.type}"` : 'did not connect';
      return this.#error(`its engine worker ${what} within ${timeoutMilliseconds} ms`);
    };
    const reply = await this.#link.wait(timeoutMilliseconds, late, async () => {
      await this.#link.send(encodeRequest(request));
      return this.#parse(await this.#link.receive(), request);
    });
    if (reply.ok) return reply;
    throw this.#error(`its engine worker failed at "${request.type}": ${reply.error}`);
  }

  #parse(frame: Uint8Array, request: LinkRequest): LinkReply {
    try {
      return decodeReply(frame);
    } catch (error) {
      throw this.#error(`its engine worker answered "${request.type}" with garbage: ${(error as Error).message}`);
    }
  }

  #error(what: string): WeightcastError {
    return new WorkerLinkError(`device ${this.#options.deviceUuid}: ${what}`);
  }
}
