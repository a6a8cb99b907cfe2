import { strict as assert } from 'node:assert';
import { isDeepStrictEqual } from 'node:util';
import type { Manifest } from '../../checkpoint/manifest.ts';
import type { KeptParts } from '../../engines/worker-link/worker-link.ts';
import { AbortedError, CheckpointError, VerificationError, type WeightcastError } from '../../errors.ts';
import type { Interval } from '../../native-bridge/addon.ts';
import type { DevicePlace } from '../../native-bridge/collective.ts';
import type { UpdateRates } from '../../plan/parts-choice.ts';
import type { Plan } from '../../plan/plan.ts';
import { pathsOf, rectangleBytes, transfersOf } from '../../plan/transfers.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { Arrived, ArrivedDigests, LiveDigests, Streamed } from '../protocol/update-values.ts';
import { arrivedAnswer } from './arrived.ts';
import { BucketStep, bucketSteps } from './bucket-step.ts';
import { DeviceSlots } from './device-slots.ts';
import { HandedOver } from './handed-over.ts';
import { InFlight } from './in-flight.ts';
import { SlotMap } from './slot-map.ts';
import { Spans } from './spans.ts';
import type { TransferOptions } from './transfer-options.ts';
import { WorkerQueue } from './worker-queue.ts';

/** A file has to be compared with digests, and the rank has those of an earlier version. */
export class OutdatedDigestsError extends Error {}

/** Where a bucket is before its broadcast: in a staging slot of this rank, in its host memory, or on another rank. */
export type BucketOrigin = 'staging' | 'host' | 'peer';

export interface BroadcastRequest {
  readonly origin: BucketOrigin;
  /** On the bucket's owner: peers close this rank's memory after the broadcast, because some of it is freed next. */
  readonly releaseAfter: boolean;
}

/**
 * Moves the bytes of one epoch on one rank: upload, broadcast and reload of each bucket. The pipeline says when, the
 * bucket actors call. Broadcasts and reloads begin in the plan's order, in whatever order they are called.
 */
export class RankTransfer {
  readonly epoch: number;
  readonly map: SlotMap;
  readonly #options: TransferOptions;
  readonly #worker: WorkerQueue;
  readonly #spans = new Spans();
  readonly #inFlight = new InFlight();
  #slots: DeviceSlots;
  #steps = bucketSteps();
  /** Taken by bucket 0 when the engine worker may be given the first bucket. */
  readonly #loading = new BucketStep();
  /** Resolves when the engine worker has opened the link buffer of the first exchange. Null before {@link connect}. */
  connected: Promise<void> | null = null;
  /** Settles when an abort is complete. */
  #ending: Promise<void> | null = null;
  #exchangesLeft: number;
  #arrivedDigests: ArrivedDigests | null = null;
  /** Null where the engine worker says itself what it receives, or nobody asks. */
  readonly #handedOver: HandedOver | null;
  readonly #live: LiveDigests[] = [];
  #uploadedBytes = 0;

  private constructor(options: TransferOptions, map: SlotMap, worker: WorkerQueue, slots: DeviceSlots) {
    this.epoch = options.epoch;
    this.map = map;
    this.#options = options;
    this.#worker = worker;
    this.#slots = slots;
    this.#exchangesLeft = options.exchanges;
    const { plan, manifest, ports } = options;
    const isAsked = options.worker.report && !worker.reports;
    this.#handedOver = isAsked ? new HandedOver(plan, manifest, ports.device) : null;
  }

  /**
   * Allocates device memory and binds the worker link. On a throw (`OutOfDeviceMemoryError`, `OutdatedDigestsError`, or
   * `CheckpointError` for a tensor that the engine worker cannot take, or a file that changed) nothing stays allocated.
   */
  static async open(options: TransferOptions): Promise<RankTransfer> {
    const { epoch, version, exchanges, plan, manifest, ports, stepTimeoutMilliseconds } = options;
    const map = new SlotMap(ports.rank, plan);
    const slots = DeviceSlots.allocate(map, ports.device);
    let worker: WorkerQueue | null = null;
    try {
      const link = await ports.bindWorkerLink({
        ...options.worker,
        epoch,
        version,
        exchanges,
        timeoutMilliseconds: stepTimeoutMilliseconds,
      });
      worker = new WorkerQueue(link, map, options);
      worker.check();
      const transfer = new RankTransfer(options, map, worker, slots);
      const own = pathsOf(plan, manifest, map.owned);
      // Before any engine is touched.
      const known = options.hasDigests ? manifest : null;
      if (!(await ports.segments.confirm(known, own))) throw new OutdatedDigestsError();
      await Promise.all([ports.segments.ready(own), transfer.#handedOver?.prepare(slots.link)]);
      return transfer;
    } catch (error) {
      worker?.close();
      slots.free();
      throw error;
    }
  }

  /** Why nothing will be known of what arrives, though it was asked for. */
  get whyUndigested(): string | null {
    return this.#handedOver?.unable ?? null;
  }

  get linkAddress(): string {
    return this.#worker.address;
  }

  /** 0 once they have been released. */
  get stagingSlots(): number {
    return this.#slots.stagingSlots;
  }

  /** No other rank takes part: nothing is broadcast. */
  get isAlone(): boolean {
    return this.#options.plan.ranks.length === 1;
  }

  /** Starts reading from other hosts. A failed read fails the uploads that need it. */
  startReceiving(): void {
    this.#options.receiver?.start();
  }

  /** Hands the engine worker the link buffer; the first reload waits for the answer. */
  connect(): Promise<void> {
    const { ipcHandle: handle, bytes } = this.#slots.link;
    const connecting = this.#inFlight.track(() => this.#worker.open({ handle, bytes }));
    this.connected ??= connecting;
    return connecting;
  }

  /** All workers of the instance are there: until now its weights are as before. */
  startLoading(): void {
    this.#loading.complete(0);
  }

  // ── one bucket ───────────────────────────────────────────────────────────────────────────────────────────────

  /** H2D into the bucket's staging slot. */
  async stage(bucket: number): Promise<void> {
    await this.#upload(bucket, this.#slots.stagingPlace(bucket));
    this.#steps.staged.complete(bucket);
  }

  /** Resolves when the bucket's broadcast is done: its staging slot may be overwritten. */
  broadcastDone(bucket: number): Promise<void> {
    return this.#steps.broadcast.completed(bucket);
  }

  /** H2D straight into the bucket's link slot. */
  uploadInPlace(bucket: number): Promise<void> {
    return this.#upload(bucket, this.#slots.linkPlace(bucket));
  }

  /**
   * Brings the bucket into the link slots of all ranks. Every rank calls this for every bucket. A rank that is alone has
   * the bytes in place: for it only the order matters.
   */
  async broadcast(bucket: number, request: BroadcastRequest): Promise<void> {
    if (request.origin === 'staging') await this.#steps.staged.completed(bucket);
    await this.#steps.issued.completed(bucket - 1);
    const broadcast = this.isAlone ? null : this.#inFlight.track(() => this.#issueBroadcast(bucket, request));
    this.#steps.issued.complete(bucket);
    if (broadcast !== null) this.#spans.add('broadcast', bucket, await broadcast);
    this.#steps.broadcast.complete(bucket);
  }

  /** Resolves when the engine worker has copied the bucket out of its link slot, which may then be overwritten. */
  async reload(bucket: number): Promise<void> {
    await this.#steps.requested.completed(bucket - 1);
    await this.#loading.completed(0);
    const reload = this.#inFlight.track(() => this.#worker.reload(bucket));
    this.#steps.requested.complete(bucket);
    const interval = await reload;
    if (interval !== null) this.#spans.add('reload', bucket, interval);
  }

  /** Takes the digests of the bucket in its link slot, if nobody else does. */
  async digest(bucket: number): Promise<void> {
    await this.#inFlight.track(async () => this.#handedOver?.digest(bucket, this.#slots.linkPlace(bucket)));
  }

  #issueBroadcast(bucket: number, { origin, releaseAfter }: BroadcastRequest): Promise<Interval> {
    const { collective, plan, stepTimeoutMilliseconds } = this.#options;
    assert(collective !== null, 'ranks that are not alone have a collective');
    const destination = this.#slots.linkPlace(bucket);
    const sources = {
      staging: () => this.#slots.stagingPlace(bucket),
      host: () => destination,
      peer: () => null,
    };
    return collective.broadcast({
      root: plan.ranks.indexOf(plan.owners[bucket]!),
      source: sources[origin](),
      destination,
      bytes: plan.bucketBytes[bucket]!,
      letsGo: releaseAfter,
      timeoutMilliseconds: stepTimeoutMilliseconds + deadlines.broadcastBeyondWorkerLink,
    });
  }

  async #upload(bucket: number, { buffer, offset }: DevicePlace): Promise<void> {
    const { plan, manifest, receiver, ports } = this.#options;
    const wanted = transfersOf(plan, manifest, bucket, offset);
    this.#uploadedBytes += wanted.reduce((sum, { rectangles }) => sum + rectangleBytes(rectangles), 0);
    const attach = () => wanted.map(({ segment }) => ports.segments.source(manifest.segments[segment]!.path));
    const upload = this.#inFlight.track(async () => {
      await receiver?.arrival(bucket);
      const transfers = attach().map((segment, at) => ({ segment, rectangles: wanted[at]!.rectangles }));
      const interval = await ports.device.upload(transfers, buffer).catch((error) => {
        // What has become of a file says more than what its reader met with.
        if (error instanceof CheckpointError) attach();
        throw error;
      });
      // A file that was written meanwhile is an error.
      attach();
      return interval;
    });
    this.#spans.add('h2d', bucket, await upload);
  }

  // ── memory pressure, and the end ─────────────────────────────────────────────────────────────────────────────

  /**
   * Frees the staging slots in the middle of an update, before this bucket. They must be empty, and peers must have closed
   * them: the last broadcast out of them has had `releaseAfter`.
   */
  releaseStaging(bucket: number): void {
    this.#spans.serialFrom ??= { rank: this.#options.ports.rank, bucket, at: this.#options.clock.now() };
    this.#slots.releaseStaging();
  }

  /** Bytes that were read from other hosts, and how many there are to read. */
  get receiving(): { readonly doneBytes: number; readonly totalBytes: number } {
    const { receivedBytes = 0, totalBytes = 0 } = this.#options.receiver ?? {};
    return { doneBytes: receivedBytes, totalBytes };
  }

  /** What there is to say of all exchanges, and of what was read from other hosts. */
  outcome(arrived: Arrived | null, isTimed: boolean): Omit<Streamed, 'learned'> {
    const { spans: read = new Float64Array(), received = [] } = this.#options.receiver ?? {};
    const { startedAt, endedAt, serialFrom } = this.#spans;
    const timeline = isTimed ? this.#spans.timeline(this.#options.ports.rank, read) : null;
    const seenBy = this.#handedOver === null ? 'worker' : 'rank';
    const uploadedBytes = this.#uploadedBytes;
    const spans = { startedAt, endedAt, timeline, serialFrom };
    return { ...spans, arrived, seenBy, live: this.#live, received, uploadedBytes };
  }

  get plan(): Plan {
    return this.#options.plan;
  }

  /** Of a rank that is not alone. */
  get rates(): UpdateRates {
    const rates = this.#spans.rates(this.plan, this.kept !== null);
    // What a tensor takes is known of updates in which all were announced.
    return this.#options.announcement === null ? rates : { ...rates, tensor: null };
  }

  get arrivedDigests(): ArrivedDigests | null {
    return this.#arrivedDigests;
  }

  get manifest(): Manifest {
    return this.#options.manifest;
  }

  /** When all is over: what the engine worker keeps of each tensor, if it has recorded that. */
  get kept(): KeptParts | null {
    return this.#worker.kept;
  }

  /** What failed first by itself; null if nothing has. */
  get ownFailure(): WeightcastError | null {
    return this.#inFlight.failure;
  }

  /** How many buckets the engine worker was asked to load, in all exchanges. */
  get loads(): number {
    return this.#worker.loads;
  }

  /** All exchanges are done. */
  get isOver(): boolean {
    return this.#exchangesLeft === 0;
  }

  /**
   * Ends an exchange: the worker drops the link buffer, the slots are freed, and only then the post-hook runs. Rejects
   * with `VerificationError` if the worker reports other digests than in the exchange before.
   */
  async finish(): Promise<Arrived | null> {
    const { receiver, worker, ports } = this.#options;
    await receiver?.complete(worker.report);
    await receiver?.close();
    await this.#inFlight.track(() => this.#worker.release());
    this.#slots.free();
    const reported = await this.#inFlight.track(() => this.#worker.finish());
    const digests = reported ?? this.#handedOver?.take() ?? null;
    if (this.#arrivedDigests !== null && !isDeepStrictEqual(digests, this.#arrivedDigests)) {
      throw new VerificationError(
        `the draft model on the device of rank ${ports.rank} got other weights than the target model`,
      );
    }
    this.#arrivedDigests = digests;
    if (this.#worker.live !== null) this.#live.push(this.#worker.live);
    this.#exchangesLeft -= 1;
    if (this.isOver) this.#worker.close();
    return arrivedAnswer(digests, this.#options);
  }

  /** Allocates device memory for the next exchange, on the same address. Throws `OutOfDeviceMemoryError`. */
  reopen(): void {
    this.#slots = DeviceSlots.allocate(this.map, this.#options.ports.device);
    this.#steps = bucketSteps();
  }

  /** Ends the transfer early, from any state. Nothing begins from here on. May be called twice. Never rejects. */
  abort(reason: string): Promise<void> {
    this.#ending ??= this.#abort(reason);
    return this.#ending;
  }

  async #abort(reason: string): Promise<void> {
    const aborted = new AbortedError(reason);
    this.#inFlight.abort(aborted);
    for (const step of [...Object.values(this.#steps), this.#loading]) step.abort(aborted);
    await Promise.all([this.#options.receiver?.discard(reason), this.#worker.abort(reason)]);
    // Copies of this rank still run, and the worker may copy out of the slots until it has read the abort.
    await this.#inFlight.settled();
    this.#worker.close();
    this.#slots.free();
  }
}
