import { randomInt } from 'node:crypto';
import { escapeControls } from '../../checkpoint/printable.ts';
import { encodeAbort, encodeBucket, encodeBuffer, encodeNone } from './checkpoint-engine-messages.ts';
import {
  oneAtATime,
  RankSocket,
  type RankSocketOptions,
  type Step,
  tracebackSummary,
} from './rank-socket.ts';
import { torchForm } from './torch-form.ts';
import type { LinkBuffer, LinkTensor, WorkerLink } from './worker-link.ts';

/** How long the address stays open for a worker that connects after an abort. */
const latecomerMilliseconds = 30_000;

export interface CheckpointEngineLinkOptions extends RankSocketOptions {
  readonly epoch: number;
  readonly latecomerMilliseconds?: number;
}

/**
 * The rank's end of checkpoint-engine's worker link, in vLLM and in SGLang (checkpoint-engine-messages.ts). For its errors
 * see {@link RankSocket}. These workers compute no digests, so `finish` resolves with null. Versions before 0.4.0 run their
 * post-hook at the first `None` and disconnect, which cannot be told from a post-hook that throws: the exchange fails.
 *
 * SGLang repeats the whole exchange for a draft model, on the same address: after `finish` another `open` may follow.
 */
export class CheckpointEngineWorkerLink implements WorkerLink {
  readonly takesSeveral = false;
  readonly reports = false;
  readonly #options: CheckpointEngineLinkOptions;
  readonly #socket: RankSocket;
  /** These workers do not say what they hold. */
  readonly live = null;
  readonly kept = null;
  #awaitsLatecomer = false;

  private constructor(socket: RankSocket, options: CheckpointEngineLinkOptions) {
    this.#socket = socket;
    this.#options = options;
  }

  /** Rejects with `WorkerLinkError` if the address cannot be bound. */
  static async bind(options: CheckpointEngineLinkOptions): Promise<CheckpointEngineWorkerLink> {
    // Random digits, because the socket of an earlier process of this rank may still be open with the same epoch.
    const number = `${options.epoch}${String(randomInt(1e6)).padStart(6, '0')}`;
    const address = `ipc://@checkpoint-engine-${options.deviceUuid}-${number}.sock`;
    return new CheckpointEngineWorkerLink(await RankSocket.bind(address, oneAtATime(), options), options);
  }

  get address(): string {
    return this.#socket.address;
  }

  check(tensors: Iterable<LinkTensor>): void {
    for (const tensor of tensors) torchForm(tensor);
  }

  async open(buffer: LinkBuffer): Promise<void> {
    await this.#ask('open', encodeBuffer(buffer));
  }

  async load(tensors: readonly LinkTensor[]): Promise<void> {
    await this.#ask('load', encodeBucket(tensors));
  }

  async release(): Promise<void> {
    await this.#ask('release', encodeNone());
  }

  async finish(): Promise<null> {
    await this.#ask('finish', encodeNone());
    this.#socket.finish();
    return null;
  }

  async abort(reason: string): Promise<void> {
    this.#socket.end(reason);
    const message = encodeAbort(`weightcast aborted the update: ${reason}`);
    if (this.#socket.hasWorker) await this.#socket.drainPeer(message);
    if (this.#socket.awaitsWorker) this.#abortLatecomer(message);
    else this.#socket.close();
  }

  /** Does nothing while {@link abort} still waits for a late worker; the socket closes after that. */
  close(): void {
    if (!this.#awaitsLatecomer) this.#socket.close();
  }

  /**
   * These workers have no deadlines: one that connects to a closed address would block its engine for ever. A worker whose
   * first message is an abort takes it for a broken handle, answers with a traceback, and waits for one more message.
   */
  #abortLatecomer(message: Uint8Array): void {
    if (this.#awaitsLatecomer) return;
    this.#awaitsLatecomer = true;
    const milliseconds = this.#options.latecomerMilliseconds ?? latecomerMilliseconds;
    this.#socket.drainPeer(message, milliseconds).then(() => this.#socket.close());
  }

  async #ask(step: Step, request: Uint8Array): Promise<void> {
    const reply = await this.#socket.ask(step, request);
    if (reply.byteLength === 0) return;
    const traceback = new TextDecoder().decode(reply);
    throw this.#socket.fail(
      'failed',
      { cause: traceback },
      `: ${escapeControls(tracebackSummary(traceback))}`,
    );
  }
}
