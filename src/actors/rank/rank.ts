import type { Manifest } from '../../checkpoint/manifest.ts';
import {
  AbortedError,
  asFailure,
  DeviceLostError,
  OutOfDeviceMemoryError,
  WeightcastError,
} from '../../errors.ts';
import { MOST_LINK_SLOTS, MOST_STAGING_SLOTS, type Plan } from '../../plan/plan.ts';
import { Receiving, type SwarmClient } from '../join/receiver.ts';
import { swarmClient } from '../join/swarm-client.ts';
import type { Actor, ActorRef, Context, Reply } from '../kernel/index.ts';
import type { ReceptionRequest } from '../protocol/join-values.ts';
import type { Progress } from '../protocol/status-values.ts';
import type { SupervisorMessage } from '../protocol/supervisor.ts';
import type { CreatedCommunicator, Opened, Streamed } from '../protocol/update-values.ts';
import type { BucketMessage } from './bucket.ts';
import { BucketActor } from './bucket.ts';
import { HeldCommunicator } from './communicator.ts';
import type { RankInbox } from './inbox.ts';
import { HeldLayouts } from './layout-cache.ts';
import { type Exposed, Leases } from './leases.ts';
import { Loading } from './loading.ts';
import { type Slots, Stream } from './pipeline.ts';
import type { RankPorts } from './ports.ts';
import { Attempt } from './transfer.ts';

type MessageOf<T extends RankInbox['type']> = Extract<RankInbox, { type: T }>;

/** Often enough for a progress bar, seldom enough to cost nothing. */
const progressEveryMilliseconds = 100;

/**
 * The owner of one device. It loads its share of checkpoints, and takes part in one update at a time: `prepare`,
 * `open`, `stream`, and `abort` if anything fails anywhere. Messages of an epoch older than the newest it has seen
 * change nothing.
 */
export class RankActor implements Actor<RankInbox> {
  readonly #ports: RankPorts;
  readonly #supervisor: ActorRef<SupervisorMessage>;
  #slots!: Slots;
  #epoch = 0;
  /** The last epoch that was aborted. An abort overtakes the `open` it is about. */
  #abortedEpoch = 0;
  #attempt: Attempt | null = null;
  #reserveBytes = 0;
  #stream: Stream | null = null;
  #streamReply: Reply<Streamed> | null = null;
  #ticking = false;
  readonly #held = new HeldLayouts();
  readonly #communicator: HeldCommunicator;
  readonly #loading: Loading;
  readonly #leases: Leases;
  /** What this rank receives in the running attempt, and from whom it hears what to read. */
  #receiving: { receiving: Receiving; swarm: SwarmClient } | null = null;

  constructor(ports: RankPorts, supervisor: ActorRef<SupervisorMessage>) {
    this.#ports = ports;
    this.#supervisor = supervisor;
    this.#communicator = new HeldCommunicator(ports);
    this.#loading = new Loading(ports.segments);
    this.#leases = new Leases(ports.segments, () => ports.fabric(null));
  }

  started(context: Context<RankInbox>): void {
    const spawn = (name: string) => context.spawn<BucketMessage>(name, () => new BucketActor(context.self));
    const several = (length: number, name: string) =>
      Array.from({ length }, (_, slot) => spawn(`${name}-bucket-${slot}`));
    this.#slots = {
      staging: several(MOST_STAGING_SLOTS, 'staging'),
      links: several(MOST_LINK_SLOTS, 'link'),
    };
    context.tell(this.#supervisor, {
      type: 'rank-ready',
      rank: this.#ports.rank,
      ref: context.self,
      deviceUuid: this.#ports.device.uuid,
      host: this.#ports.host,
      directory: this.#ports.directory,
      directoryId: this.#ports.directoryId,
      nics: [...this.#ports.nics],
      collectiveScope: this.#ports.collectiveScope,
      pid: this.#ports.pid,
      lastEpoch: this.#epoch,
    });
  }

  async receive(message: RankInbox, context: Context<RankInbox>): Promise<void> {
    switch (message.type) {
      case 'load':
        return this.#startLoad(message, context);
      case 'load-ended':
        this.#reportProgress(context);
        return this.#loading.end(message.job, message.result);
      case 'release':
        return this.#release(message, context);
      case 'lease':
        return this.#lease(message, context);
      case 'expose':
        return this.#expose(message, context);
      case 'return-lease':
        return this.#leases.release(message.epoch);
      case 'prepare':
        return await this.#prepare(message, context);
      case 'open':
        return this.#open(message, context);
      case 'stream':
        return this.#startStream(message, context);
      case 'staged':
      case 'uploaded-in-place':
      case 'broadcast-issued':
      case 'broadcast-done':
      case 'reloaded':
        return this.#advance(message, context);
      case 'stream-ended':
        return this.#endStream(message, context);
      case 'bucket-failed':
        if (message.epoch === this.#attempt?.epoch) await this.#abandon(message.error);
        // Nothing works on that device any more, in this process.
        if (message.error instanceof DeviceLostError) throw message.error;
        return;
      case 'abort':
        return this.#abort(message, context);
      case 'report-progress':
        this.#ticking = false;
        this.#relieveMemory();
        this.#reportProgress(context);
        return this.#tick(context);
    }
  }

  async stopping(): Promise<void> {
    const reason = new AbortedError(`rank ${this.#ports.rank} is stopping`);
    await this.#abandon(reason);
    this.#communicator.close();
    this.#ports.close();
  }

  // ── loading ──────────────────────────────────────────────────────────────────────────────────────────────────

  #startLoad(message: MessageOf<'load'>, context: Context<RankInbox>): void {
    const { order } = message;
    if (order.segment !== null && this.#leases.isLent(order.segment)) {
      const why = `${order.segment} is lent to another host, and cannot be written over`;
      context.fail(new WeightcastError(why));
      return;
    }
    this.#loading.start(order, context.deferReply(message), context);
    this.#tick(context);
  }

  #release(message: MessageOf<'release'>, context: Context<RankInbox>): void {
    const reply = context.deferReply(message);
    this.#leases.forget(message.segments).then(
      () => reply.succeed({}),
      (error) => reply.fail(asFailure(error)),
    );
  }

  // ── lending to other hosts ───────────────────────────────────────────────────────────────────────────────────

  #lease(message: MessageOf<'lease'>, context: Context<RankInbox>): void {
    this.#answerExposed(context.deferReply(message), this.#leases.lend(message.epoch, message.segments));
  }

  #expose(message: MessageOf<'expose'>, context: Context<RankInbox>): void {
    this.#answerExposed(context.deferReply(message), this.#leases.expose(message.segments));
  }

  #answerExposed(reply: Reply<{ address: Uint8Array; exposed: Exposed[] }>, work: Promise<Exposed[]>): void {
    work.then(
      (exposed) => reply.succeed({ address: this.#ports.fabric(null).address, exposed }),
      (error) => reply.fail(asFailure(error)),
    );
  }

  // ── one update ───────────────────────────────────────────────────────────────────────────────────────────────

  async #prepare(message: MessageOf<'prepare'>, context: Context<RankInbox>): Promise<void> {
    if (message.epoch <= this.#epoch) {
      context.fail(this.#stale(message));
      return;
    }
    this.#epoch = message.epoch;
    await this.#abandon(new AbortedError(`epoch ${message.epoch} begins`));
    const { createCommunicator } = message;
    let createdCommunicator: CreatedCommunicator | null = null;
    try {
      if (createCommunicator !== null) {
        createdCommunicator = this.#ports.createCommunicator(createCommunicator);
      }
    } catch (error) {
      context.fail(asFailure(error));
      return;
    }
    context.reply(message, {
      freeBytes: this.#ports.device.memory().free,
      bucketBytes: this.#ports.device.bucketBytes,
      layouts: this.#held.layouts,
      planDigests: this.#held.planDigests,
      createdCommunicator,
    });
  }

  async #open(message: MessageOf<'open'>, context: Context<RankInbox>): Promise<void> {
    const isOver = message.epoch <= this.#abortedEpoch;
    if (message.epoch !== this.#epoch || isOver || this.#attempt !== null) {
      context.fail(this.#stale(message));
      return;
    }
    try {
      context.reply(message, await this.#openAttempt(message, context));
    } catch (error) {
      if (error instanceof DeviceLostError) throw error;
      // It cost the update, and nothing was taken: no reason for the rank to crash.
      context.fail(asFailure(error));
    }
  }

  async #openAttempt(message: MessageOf<'open'>, context: Context<RankInbox>): Promise<Opened> {
    const { plan, manifest } = this.#held.use(message);
    if (plan === undefined || manifest === undefined)
      throw new WeightcastError(`rank ${this.#ports.rank} does not hold plan ${message.planDigest}`);
    this.#reserveBytes = message.reserveBytes;
    const { epoch, version, verify, exchanges, communicator } = message;
    const order = { epoch, version, verify, exchanges, plan, manifest };
    let receiving: Receiving | null = null;
    try {
      const collective = communicator && (await this.#communicator.join(communicator, plan.ranks));
      receiving = await this.#openReceiving(message.reception, plan, manifest, context);
      this.#attempt = await Attempt.open(order, this.#ports, context.clock, collective, receiving);
      const { linkAddress } = this.#attempt;
      return { outcome: 'open', linkAddress, receiving: (await receiving?.source()) ?? null };
    } catch (error) {
      await receiving?.discard('the epoch was not opened');
      if (!(error instanceof OutOfDeviceMemoryError)) throw error;
      const wantedBytes = plan.slots * plan.slotBytes;
      return { outcome: 'pressure', wantedBytes, freeBytes: this.#ports.device.memory().free };
    }
  }

  async #openReceiving(
    order: ReceptionRequest | null,
    plan: Plan,
    manifest: Manifest,
    context: Context<RankInbox>,
  ): Promise<Receiving | null> {
    this.#receiving = null;
    if (order === null) return null;
    const { rank, segments } = this.#ports;
    const fabric = (secret: string | null) => this.#ports.fabric(secret);
    const receiving = await Receiving.open({
      order,
      rank,
      plan,
      manifest,
      segments,
      leases: this.#leases,
      fabric,
    });
    this.#receiving = { receiving, swarm: swarmClient(order, rank, context) };
    return receiving;
  }

  #startStream(message: MessageOf<'stream'>, context: Context<RankInbox>): void {
    const attempt = this.#attempt;
    if (message.epoch !== attempt?.epoch || this.#stream !== null) {
      context.fail(this.#stale(message));
      return;
    }
    this.#streamReply = context.deferReply(message);
    this.#receiving?.receiving.start(this.#receiving.swarm);
    this.#beginExchange(attempt, context);
    this.#reportProgress(context);
    this.#tick(context);
  }

  #beginExchange(attempt: Attempt, context: Context<RankInbox>): void {
    attempt.connect().catch((error) => {
      context.tell(context.self, { type: 'bucket-failed', epoch: attempt.epoch, error: asFailure(error) });
    });
    this.#stream = new Stream(attempt, this.#slots, (slot, order) => context.tell(slot, order));
    this.#stream.start();
  }

  #advance(
    message: MessageOf<'staged' | 'uploaded-in-place' | 'broadcast-issued' | 'broadcast-done' | 'reloaded'>,
    context: Context<RankInbox>,
  ): void {
    const stream = this.#stream;
    if (stream === null || message.epoch !== stream.attempt.epoch) return;
    stream.handle(message);
    if (message.type !== 'reloaded' || !stream.isDone) return;
    const { epoch } = message;
    context.pipe(
      stream.attempt.finish(),
      (installed) => ({ type: 'stream-ended', epoch, result: installed }),
      (error) => ({ type: 'stream-ended', epoch, result: error }),
    );
  }

  async #endStream({ epoch, result }: MessageOf<'stream-ended'>, context: Context<RankInbox>): Promise<void> {
    if (this.#stream === null || epoch !== this.#stream.attempt.epoch) return;
    if (result instanceof WeightcastError) {
      await this.#abandon(result);
      return;
    }
    this.#reportProgress(context);
    const { attempt } = this.#stream;
    if (!attempt.isOver) return await this.#nextExchange(attempt, context);
    this.#attempt = null;
    this.#stream = null;
    this.#streamReply?.succeed({ timeline: attempt.timeline, installed: result, received: attempt.received });
    this.#streamReply = null;
  }

  /** The engine's draft model takes the same weights. */
  async #nextExchange(attempt: Attempt, context: Context<RankInbox>): Promise<void> {
    try {
      attempt.reopen();
    } catch (error) {
      return await this.#abandon(asFailure(error));
    }
    this.#beginExchange(attempt, context);
  }

  /** Device memory that others took meanwhile: the staging slots are what the update can do without. */
  #relieveMemory(): void {
    if (this.#stream === null || this.#stream.attempt.stagingSlots === 0) return;
    if (this.#ports.device.memory().free < this.#reserveBytes) this.#stream.giveUpStaging();
  }

  // ── failure ──────────────────────────────────────────────────────────────────────────────────────────────────

  async #abort(message: MessageOf<'abort'>, context: Context<RankInbox>): Promise<void> {
    if (message.epoch < this.#epoch) {
      context.fail(this.#stale(message));
      return;
    }
    this.#epoch = message.epoch;
    this.#abortedEpoch = message.epoch;
    await this.#abandon(new AbortedError(message.reason));
    context.reply(message, {});
  }

  /**
   * Answers whoever waits for the stream, and gives everything of the running attempt back. The answer comes first: the
   * engine is about to fail with its own words for it. That all is back is told by the answer to `abort`.
   */
  async #abandon(error: WeightcastError): Promise<void> {
    const attempt = this.#attempt;
    if (attempt === null) return;
    this.#streamReply?.fail(error);
    this.#streamReply = null;
    // Peers that are inside a broadcast with this rank must not wait for its deadline. Without a stream there is none:
    // when memory is short and the update is planned again, the communicator stays good. It also does for an update that
    // does without.
    if (this.#stream !== null && !attempt.isAlone) this.#communicator.abort();
    await attempt.abort(error.message);
    this.#attempt = null;
    this.#stream = null;
  }

  #stale(message: { readonly type: string; readonly epoch: number }): WeightcastError {
    const { rank } = this.#ports;
    return new AbortedError(
      `rank ${rank} is at epoch ${this.#epoch}; ${message.type} of epoch ${message.epoch} is late`,
    );
  }

  /** While something runs: a rank with nothing to do does not wake up. */
  #tick(context: Context<RankInbox>): void {
    if (this.#ticking || (!this.#loading.isRunning && this.#stream === null)) return;
    this.#ticking = true;
    context.schedule(progressEveryMilliseconds, { type: 'report-progress' });
  }

  /** At first, now and then, and at the end: what is quick shows too, and a bar gets to its end. */
  #reportProgress(context: Context<RankInbox>): void {
    const progress = this.#progress();
    if (progress !== null) context.tell(this.#supervisor, { type: 'progress', progress });
  }

  #progress(): Progress | null {
    const { rank } = this.#ports;
    if (this.#loading.isRunning) return this.#loading.progress(rank);
    if (this.#stream === null) return null;
    const { receivedBytes = 0, totalBytes: awaitedBytes = 0 } = this.#receiving?.receiving ?? {};
    if (receivedBytes < awaitedBytes) {
      return { activity: 'receive', rank, doneBytes: receivedBytes, totalBytes: awaitedBytes };
    }
    const { plan } = this.#stream.attempt;
    const totalBytes = plan.bucketBytes.reduce((sum, bytes) => sum + bytes, 0);
    return { activity: 'update', rank, doneBytes: this.#stream.reloadedBytes, totalBytes };
  }
}
