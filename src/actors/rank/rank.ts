import { packCuts } from '../../checkpoint/cuts-codec.ts';
import { AbortedError, asFailure, DeviceLostError, WeightcastError } from '../../errors.ts';
import { type Actor, type ActorRef, type Context, type Reply, replyLater } from '../kernel/index.ts';
import type { SupervisorMessage } from '../protocol/supervisor.ts';
import type { CreatedCommunicator, Streamed } from '../protocol/update-values.ts';
import { EndedTransfers } from './ended-transfers.ts';
import { HostMemory } from './host-memory.ts';
import type { RankInbox } from './inbox.ts';
import { introductionOf, staleError } from './introduction.ts';
import { KeptParts } from './kept-parts.ts';
import { LayoutCache } from './layout-cache.ts';
import { openTransfer } from './open.ts';
import { Pipeline, type Slots, spawnSlots } from './pipeline.ts';
import type { RankPorts } from './ports.ts';
import { RankCommunicator } from './rank-communicator.ts';
import type { RankTransfer } from './transfer.ts';

type MessageOf<T extends RankInbox['type']> = Extract<RankInbox, { type: T }>;

/** Smooth enough for a progress bar. */
const progressMilliseconds = 100;

/**
 * The owner of one device. It loads its share of checkpoints, leases segments to ranks of other hosts, and takes part in
 * one update at a time: `prepare`, `open`, `stream`, and `abort` if anything fails anywhere. Messages of an epoch older
 * than the newest it has seen change nothing.
 */
export class RankActor implements Actor<RankInbox> {
  readonly #ports: RankPorts;
  #supervisor: ActorRef<SupervisorMessage>;
  #slots!: Slots;
  #epoch = 0;
  /** The first epoch of this process; 0 before. */
  #firstEpoch = 0;
  /** The last epoch that was aborted. An abort may overtake the `open` of its epoch. */
  #abortedEpoch = 0;
  /** From `open` to the end of the update. */
  #transfer: RankTransfer | null = null;
  /** From `stream` on; a new one for each exchange. */
  #pipeline: Pipeline | null = null;
  #streamReply: Reply<Streamed> | null = null;
  #isTimed = false;
  readonly #ended: EndedTransfers;
  #reserveBytes = 0;
  #ticking = false;
  readonly #layouts = new LayoutCache();
  readonly #kept: KeptParts;
  readonly #communicator: RankCommunicator;
  readonly #memory: HostMemory;

  constructor(ports: RankPorts, supervisor: ActorRef<SupervisorMessage>) {
    this.#ports = ports;
    this.#supervisor = supervisor;
    this.#kept = new KeptParts(ports.rank);
    this.#ended = new EndedTransfers(ports.rank);
    this.#communicator = new RankCommunicator(ports);
    this.#memory = new HostMemory(ports);
  }

  started(context: Context<RankInbox>): void {
    // The slots end before `stopping` runs, and each waits for its bucket: end those buckets first.
    context.signal.addEventListener('abort', () => this.#abandon(this.#stoppingError()), { once: true });
    this.#slots = spawnSlots(context);
    this.#introduce(context, this.#supervisor);
  }

  #introduce(context: Context<RankInbox>, supervisor: ActorRef<SupervisorMessage>): void {
    this.#supervisor = supervisor;
    const epochs = { first: this.#firstEpoch, last: this.#epoch, loaded: this.#ended.loadedEpoch };
    context.tell(supervisor, introductionOf(this.#ports, context.self, epochs));
  }

  async receive(message: RankInbox, context: Context<RankInbox>): Promise<void> {
    // Beside updates.
    if (HostMemory.isAbout(message)) {
      await this.#memory.receive(message, context);
      return this.#tick(context);
    }
    switch (message.type) {
      case 'load-ended':
        this.#reportProgress(context);
        return this.#memory.loading.end(message.job, message.result);
      case 'prepare':
        return await this.#prepare(message, context);
      case 'kept-parts':
        return replyLater(context.deferReply(message), this.#keptParts(message));
      case 'arrived-digests':
        return replyLater(context.deferReply(message), this.#ended.arrivedDigests(message));
      case 'create-communicator':
        return replyLater(context.deferReply(message), this.#createCommunicator(message));
      case 'open':
        return this.#open(message, context);
      case 'stream':
        return this.#startStream(message, context);
      case 'connected':
        return replyLater(context.deferReply(message), this.#connected(message));
      case 'start-loading':
        if (message.epoch === this.#transfer?.epoch) this.#transfer.startLoading();
        return;
      case 'slot-free':
        return this.#slotFree(message, context);
      case 'connect-failed':
      case 'bucket-failed':
        return await this.#failed(message);
      case 'exchange-ended':
        return this.#endExchange(message, context);
      case 'abort':
        return this.#abort(message, context);
      case 'end':
        return this.#ports.end();
      case 'supervisor-died':
        return this.#supervisorDied();
      case 'supervisor-found':
        return this.#supervisorFound(message, context);
      case 'report-progress':
        this.#ticking = false;
        this.#relieveMemory();
        this.#reportProgress(context);
        return this.#tick(context);
    }
  }

  async stopping(): Promise<void> {
    await this.#abandon(this.#stoppingError());
    this.#communicator.close();
    this.#ports.close();
  }

  // ── one update ───────────────────────────────────────────────────────────────────────────────────────────────

  async #prepare(message: MessageOf<'prepare'>, context: Context<RankInbox>): Promise<void> {
    if (message.epoch <= this.#epoch) {
      context.fail(this.#stale(message));
      return;
    }
    this.#epoch = message.epoch;
    this.#firstEpoch ||= message.epoch;
    await this.#abandon(new AbortedError(`epoch ${message.epoch} begins`));
    context.reply(message, {
      freeBytes: this.#ports.device.memory().free,
      bucketBytes: this.#ports.device.bucketBytes,
      layouts: this.#layouts.layouts,
      planDigests: this.#layouts.planDigests,
      kept: this.#kept.announced,
      rates: this.#ended.rates,
    });
  }

  async #keptParts({ digest }: MessageOf<'kept-parts'>): Promise<{ packed: Uint8Array }> {
    return { packed: packCuts(this.#kept.cutsOf(digest)) };
  }

  async #createCommunicator(message: MessageOf<'create-communicator'>): Promise<CreatedCommunicator> {
    if (message.epoch !== this.#epoch || message.epoch <= this.#abortedEpoch) throw this.#stale(message);
    return this.#ports.createCommunicator(message.communicator);
  }

  async #open(message: MessageOf<'open'>, context: Context<RankInbox>): Promise<void> {
    const isAborted = message.epoch <= this.#abortedEpoch;
    if (message.epoch !== this.#epoch || isAborted || this.#transfer !== null) {
      context.fail(this.#stale(message));
      return;
    }
    const holdings = {
      ports: this.#ports,
      layouts: this.#layouts,
      kept: this.#kept,
      communicator: this.#communicator,
      leases: this.#memory.leases,
    };
    try {
      const { transfer, answer } = await openTransfer(message, holdings, context);
      this.#transfer = transfer;
      this.#reserveBytes = message.reserveBytes;
      context.reply(message, answer);
    } catch (error) {
      if (error instanceof DeviceLostError) throw error;
      // The update fails; nothing stays allocated, so the rank itself works on.
      context.fail(asFailure(error));
    }
  }

  #startStream(message: MessageOf<'stream'>, context: Context<RankInbox>): void {
    const transfer = this.#transfer;
    if (message.epoch !== transfer?.epoch || this.#pipeline !== null) {
      context.fail(this.#stale(message));
      return;
    }
    this.#streamReply = context.deferReply(message);
    this.#isTimed = message.timeline;
    transfer.startReceiving();
    this.#startExchange(transfer, context);
    this.#reportProgress(context);
    this.#tick(context);
  }

  async #connected(message: MessageOf<'connected'>): Promise<Record<string, never>> {
    if (message.epoch !== this.#transfer?.epoch || this.#transfer.connected === null)
      throw this.#stale(message);
    await this.#transfer.connected;
    return {};
  }

  #startExchange(transfer: RankTransfer, context: Context<RankInbox>): void {
    const { epoch } = transfer;
    transfer.connect().catch((error) => {
      context.tell(context.self, { type: 'connect-failed', epoch, error: asFailure(error) });
    });
    this.#pipeline = new Pipeline(transfer, this.#slots, (slot, job) => context.tell(slot, job));
    this.#pipeline.start();
  }

  #slotFree(message: MessageOf<'slot-free'>, context: Context<RankInbox>): void {
    const pipeline = this.#pipeline;
    const { epoch } = message;
    if (pipeline === null || epoch !== pipeline.transfer.epoch) return;
    pipeline.slotFree(message);
    if (!pipeline.isDone) return;
    context.pipe(
      pipeline.transfer.finish(),
      (result) => ({ type: 'exchange-ended', epoch, result }),
      (error) => ({ type: 'exchange-ended', epoch, result: error }),
    );
  }

  async #endExchange(
    { epoch, result }: MessageOf<'exchange-ended'>,
    context: Context<RankInbox>,
  ): Promise<void> {
    const transfer = this.#transfer;
    if (epoch !== transfer?.epoch) return;
    if (result instanceof WeightcastError) return await this.#abandon(result);
    this.#reportProgress(context);
    if (!transfer.isOver) return await this.#nextExchange(transfer, context);
    const learned = this.#kept.learn(transfer, context.log);
    this.#forget(transfer);
    this.#streamReply?.succeed({ ...transfer.outcome(result, this.#isTimed), learned });
    this.#streamReply = null;
  }

  /** The engine's draft model takes the same weights. */
  async #nextExchange(transfer: RankTransfer, context: Context<RankInbox>): Promise<void> {
    try {
      transfer.reopen();
    } catch (error) {
      return await this.#abandon(asFailure(error));
    }
    this.#startExchange(transfer, context);
  }

  /** Other processes have allocated device memory meanwhile: the update can go on without its staging slots. */
  #relieveMemory(): void {
    if (this.#pipeline === null || this.#pipeline.transfer.stagingSlots === 0) return;
    if (this.#ports.device.memory().free < this.#reserveBytes) this.#pipeline.giveUpStaging();
  }

  // ── failure ──────────────────────────────────────────────────────────────────────────────────────────────────

  async #failed({ epoch, error }: MessageOf<'connect-failed' | 'bucket-failed'>): Promise<void> {
    if (epoch === this.#transfer?.epoch) await this.#abandon(error);
    // The device is lost to this process for good: only a new process can use it again.
    if (error instanceof DeviceLostError) throw error;
  }

  async #abort(message: MessageOf<'abort'>, context: Context<RankInbox>): Promise<void> {
    if (message.epoch < this.#epoch) {
      context.fail(this.#stale(message));
      return;
    }
    this.#epoch = message.epoch;
    this.#abortedEpoch = message.epoch;
    await this.#abandon(new AbortedError(message.reason), true);
    context.reply(message, { loads: this.#ended.loadsOf(message.epoch) });
  }

  /**
   * Fails the `stream` request, and releases everything that the running update holds. The reply comes first, so that the
   * supervisor sees this error before the engine's own; if the supervisor `hasAsked` for it, last: what has failed here by
   * itself says more, and may be on its way. The answer to `abort` says that the release is complete.
   */
  async #abandon(error: WeightcastError, hasAsked = false): Promise<void> {
    const transfer = this.#transfer;
    if (transfer === null) return;
    const reply = this.#streamReply;
    this.#streamReply = null;
    if (!hasAsked) reply?.fail(error);
    this.#kept.failed(error, transfer.manifest);
    // Otherwise peers inside a broadcast with this rank would wait for its deadline. Before `stream` there is none, and
    // the communicator stays usable for the next plan.
    if (this.#pipeline !== null && !transfer.isAlone) this.#communicator.abort();
    await transfer.abort(error.message);
    if (hasAsked) reply?.fail(transfer.ownFailure ?? error);
    this.#forget(transfer);
  }

  async #supervisorFound(
    { supervisor }: MessageOf<'supervisor-found'>,
    context: Context<RankInbox>,
  ): Promise<void> {
    // Questions of the one before may have waited in the mailbox.
    await this.#supervisorDied();
    this.#introduce(context, supervisor);
  }

  /** Nobody would end what it has begun. What it holds it keeps for the next supervisor. */
  async #supervisorDied(): Promise<void> {
    this.#abortedEpoch = this.#epoch;
    await this.#abandon(new AbortedError('the supervisor has died'));
    this.#communicator.close();
    await this.#memory.leases.returnAll();
  }

  #forget(transfer: RankTransfer): void {
    this.#ended.note(transfer);
    this.#transfer = null;
    this.#pipeline = null;
  }

  #stoppingError = () => new AbortedError(`rank ${this.#ports.rank} is stopping`);

  #stale(message: { readonly type: string; readonly epoch: number }): WeightcastError {
    return staleError(this.#ports.rank, this.#epoch, message);
  }

  /** Reports progress again in a moment, as long as something runs: an idle rank does not wake up. */
  #tick(context: Context<RankInbox>): void {
    if (this.#ticking || (!this.#memory.loading.isRunning && this.#pipeline === null)) return;
    this.#ticking = true;
    context.schedule(progressMilliseconds, { type: 'report-progress' });
  }

  #reportProgress(context: Context<RankInbox>): void {
    const { rank } = this.#ports;
    const progress = this.#memory.loading.isRunning
      ? this.#memory.loading.progress(rank)
      : (this.#pipeline?.progress(rank) ?? null);
    if (progress !== null) context.tell(this.#supervisor, { type: 'progress', progress });
  }
}
