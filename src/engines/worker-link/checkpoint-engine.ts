import { randomInt } from 'node:crypto';
import { escapeControls } from '../../checkpoint/printable.ts';
import { encodeAbort, encodeBucket, encodeBuffer, encodeNone } from './checkpoint-engine-messages.ts';
import {
  abortMilliseconds,
  RankSocket,
  type RankSocketOptions,
  type Step,
  tellingLine,
} from './rank-socket.ts';
import { torchForm } from './torch-form.ts';
import type { LinkBuffer, LinkTensor, WorkerLink } from './worker-link.ts';

/** A worker that comes after the end of its exchange is told so, for this long. */
const latecomerMilliseconds = 30_000;

export interface CheckpointEngineLinkOptions extends RankSocketOptions {
  readonly epoch: number;
  readonly latecomerMilliseconds?: number;
}

/**
 * The rank's end of the worker link that checkpoint-engine's own workers speak, in vLLM and in SGLang
 * (checkpoint-engine-messages.ts). What goes wrong is told as {@link RankSocket} says. Such workers cannot say what
 * they hold, so `finish` resolves with null. Those before version 0.4.0 run their post-hook at the first `None` and
 * leave, which counts as dying: nothing tells them from one whose post-hook throws.
 *
 * SGLang runs the whole exchange again for a draft model, on the same address: after `finish` the link takes another
 * `open`.
 */
export class CheckpointEngineWorkerLink implements WorkerLink {
  readonly #options: CheckpointEngineLinkOptions;
  readonly #socket: RankSocket;
  #awaitsLatecomer = false;

  private constructor(socket: RankSocket, options: CheckpointEngineLinkOptions) {
    this.#socket = socket;
    this.#options = options;
  }

  /** Rejects with `WorkerLinkError` if the address cannot be bound. */
  static async bind(options: CheckpointEngineLinkOptions): Promise<CheckpointEngineWorkerLink> {
    // Random digits, for a rank that was started anew with the same epoch while its old socket is still open.
    const number = `${options.epoch}${String(randomInt(1e6)).padStart(6, '0')}`;
    const address = `ipc://@checkpoint-engine-${options.deviceUuid}-${number}.sock`;
    return new CheckpointEngineWorkerLink(await RankSocket.bind(address, options), options);
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
    if (this.#socket.listening) await this.#socket.dismiss(message, abortMilliseconds);
    if (this.#socket.awaitsWorker) this.#turnAwayLatecomer(message);
    else this.#socket.close();
  }

  /** An address where {@link abort} still awaits a worker stays open for it. */
  close(): void {
    if (!this.#awaitsLatecomer) this.#socket.close();
  }

  /**
   * The worker has no deadlines: one that comes to an address where nobody listens any more blocks its engine for
   * ever. It takes an abort that comes first for a broken handle, answers with a traceback, and waits for one more
   * message.
   */
  #turnAwayLatecomer(message: Uint8Array): void {
    if (this.#awaitsLatecomer) return;
    this.#awaitsLatecomer = true;
    const milliseconds = this.#options.latecomerMilliseconds ?? latecomerMilliseconds;
    this.#socket.dismiss(message, milliseconds).then(() => this.#socket.close());
  }

  async #ask(step: Step, request: Uint8Array): Promise<void> {
    const reply = await this.#socket.ask(step, request);
    if (reply.byteLength === 0) return;
    const traceback = new TextDecoder().decode(reply);
    throw this.#socket.fail('failed', { cause: traceback }, `: ${escapeControls(tellingLine(traceback))}`);
  }
}
