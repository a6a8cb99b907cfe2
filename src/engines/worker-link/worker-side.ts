import { Reply } from 'zeromq';
import { AbortedError, DeadlineError, describe, PeerLostError, ProtocolError, WorkerLinkError } from '../../errors.ts';
import type { Clock } from '../../ports.ts';
import { LinkSocket, maxMessageBytes } from './link-socket.ts';
import { decodeRequest, encodeReply, type LinkReply, type LinkRequest, type OpenRequest, protocolVersion } from './messages.ts';
import type { InstalledReport, LinkTensor } from './worker-link.ts';

/** What an engine worker does at each step of an update. A throw is told to the rank and ends the update. */
export interface WeightsHandler {
  open(buffer: { readonly handle: Uint8Array; readonly bytes: number; readonly epoch: number; readonly version: string }): void | Promise<void>;
  /** Copies tensors out of the link buffer; when it resolves the buffer's bytes may change. */
  load(tensors: readonly LinkTensor[]): void | Promise<void>;
  /** Lets go of the link buffer. */
  release(): void | Promise<void>;
  /** Post-hook; says what is installed, a row for each tensor in announced order, or null. */
  finish(): InstalledReport | null | Promise<InstalledReport | null>;
}

export interface ReceiveOptions {
  /** What the engine was told for this device. */
  readonly address: string;
  readonly deviceUuid: string;
  /** How long the rank may be silent. */
  readonly timeoutMilliseconds: number;
  readonly clock: Clock;
  readonly handler: WeightsHandler;
}

/** After a failure the rank says how it goes on; a rank that says nothing is not waited for longer. */
const afterFailureMilliseconds = 5_000;

/**
 * Serves one update as the engine worker of a device. Resolves when the rank has its last answer. Rejects with what
 * the handler threw, with `AbortedError` when the rank gives up, with `PeerLostError` when it is gone.
 */
export async function receiveWeights(options: ReceiveOptions): Promise<{ epoch: number; version: string }> {
  const { address, deviceUuid, clock } = options;
  const socket = new Reply({ linger: 1_000, maxMessageSize: maxMessageBytes });
  const link = new LinkSocket(socket, clock, () => new PeerLostError(`the rank of ${deviceUuid} is gone`));
  socket.connect(address);
  const exchange = new Exchange(options, link);
  try {
    return await exchange.serve();
  } finally {
    link.close();
  }
}

class Exchange {
  readonly #options: ReceiveOptions;
  readonly #link: LinkSocket;
  #opened: OpenRequest | null = null;

  constructor(options: ReceiveOptions, link: LinkSocket) {
    this.#options = options;
    this.#link = link;
  }

  async serve(): Promise<{ epoch: number; version: string }> {
    for (;;) {
      const request = await this.#next(this.#options.timeoutMilliseconds);
      if (request.type === 'abort') throw new AbortedError(`the rank ended the update: ${request.reason}`);
      let reply: LinkReply;
      try {
        reply = await this.#carryOut(request);
      } catch (thrown) {
        await this.#tellFailure(thrown);
        throw thrown;
      }
      await this.#link.send(encodeReply(reply));
      if (request.type === 'finish') return this.#opened!;
    }
  }

  async #next(milliseconds: number): Promise<LinkRequest> {
    const { deviceUuid } = this.#options;
    const late = () => new DeadlineError(`the rank of ${deviceUuid} said nothing for ${milliseconds} ms`);
    return this.#link.wait(milliseconds, late, async () => decodeRequest(await this.#link.receive()));
  }

  async #carryOut(request: Exclude<LinkRequest, { type: 'abort' }>): Promise<LinkReply> {
    const { handler } = this.#options;
    if (request.type === 'open') {
      this.#checkOpen(request);
      await handler.open(request);
      this.#opened = request;
      return { ok: true };
    }
    if (this.#opened === null) throw new ProtocolError(`the rank began with "${request.type}" and not with "open"`);
    switch (request.type) {
      case 'load':
        await handler.load(request.tensors);
        return { ok: true };
      case 'release':
        await handler.release();
        return { ok: true };
      case 'finish':
        return { ok: true, report: await handler.finish() };
    }
  }

  #checkOpen({ protocol, device }: OpenRequest): void {
    const { deviceUuid } = this.#options;
    if (this.#opened !== null) throw new ProtocolError('the rank opened the link twice');
    if (protocol !== protocolVersion) {
      throw new ProtocolError(`the rank speaks worker-link protocol ${protocol}, this worker ${protocolVersion}`);
    }
    if (device !== deviceUuid) {
      throw new WorkerLinkError(`the rank owns device ${device}, this worker runs on ${deviceUuid}`);
    }
  }

  /** The rank hears why, and answers with an abort or by closing; either is the end. */
  async #tellFailure(thrown: unknown): Promise<void> {
    const error = thrown instanceof Error ? (thrown.stack ?? thrown.message) : describe(thrown);
    try {
      await this.#link.send(encodeReply({ ok: false, error }));
      await this.#next(afterFailureMilliseconds);
    } catch {
      // The rank is gone or silent: there is nobody left to tell.
    }
  }
}
