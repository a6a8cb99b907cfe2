import { strict as assert } from 'node:assert';
import { isDeepStrictEqual } from 'node:util';
import { dtypeName, type Manifest, shapeOf } from '../../checkpoint/manifest.ts';
import type { LinkTensor, WorkerLink } from '../../engines/worker-link/worker-link.ts';
import { VerificationError } from '../../errors.ts';
import type { Interval } from '../../native-bridge/addon.ts';
import type { Collective } from '../../native-bridge/collective.ts';
import type { DeviceBuffer } from '../../native-bridge/device.ts';
import { linkSlotCount, type Plan, stagingSlotCount } from '../../plan/plan.ts';
import { transfersOf } from '../../plan/transfers.ts';
import type { Clock } from '../../ports.ts';
import type { Receiving } from '../join/receiver.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { Installed, RankTimeline, Received } from '../protocol/update-values.ts';
import type { Carriage } from './bucket.ts';
import type { RankPorts } from './ports.ts';
import { Spans } from './spans.ts';

export interface AttemptOrder {
  readonly epoch: number;
  readonly version: string;
  /** Have the engine worker say what it holds in the end. */
  readonly verify: boolean;
  /** How often the engine worker takes everything: twice where a draft model takes it too. */
  readonly exchanges: number;
  readonly plan: Plan;
  readonly manifest: Manifest;
}

interface SlotBuffers {
  readonly link: DeviceBuffer;
  readonly staging: DeviceBuffer | null;
}

/**
 * One rank's part in one epoch: its slots, its link to the engine worker, and the three things that happen to a
 * bucket. It decides nothing; the rank says when, the bucket actors carry out.
 */
export class Attempt {
  readonly epoch: number;
  readonly plan: Plan;
  readonly spans = new Spans();
  readonly #manifest: Manifest;
  readonly #verify: boolean;
  readonly #ports: RankPorts;
  readonly #clock: Clock;
  /** Null for a rank that is alone. */
  readonly #collective: Collective | null;
  /** What comes from other hosts; null if all is here. */
  readonly #receiving: Receiving | null;
  readonly #link: WorkerLink;
  /** This rank's buckets, each with its turn among them. */
  readonly #turns: ReadonlyMap<number, number>;
  #linkBuffer: DeviceBuffer;
  /** All staging slots. */
  #staging: DeviceBuffer | null;
  /** An engine worker answers one request at a time, so requests queue behind each other. */
  #linkTurn: Promise<unknown> = Promise.resolve();
  readonly #inFlight = new Set<Promise<unknown>>();
  #exchangesLeft: number;
  #installed: Installed | null = null;

  private constructor(
    order: AttemptOrder,
    ports: RankPorts,
    clock: Clock,
    collective: Collective | null,
    receiving: Receiving | null,
    link: WorkerLink,
    slots: SlotBuffers,
  ) {
    this.epoch = order.epoch;
    this.plan = order.plan;
    this.#manifest = order.manifest;
    this.#verify = order.verify;
    this.#ports = ports;
    this.#clock = clock;
    this.#collective = collective;
    this.#receiving = receiving;
    this.#link = link;
    this.#turns = turnsOf(ports.rank, order.plan);
    this.#linkBuffer = slots.link;
    this.#staging = slots.staging;
    this.#exchangesLeft = order.exchanges;
  }

  /**
   * Takes device memory and binds the worker link. On a throw (`OutOfDeviceMemoryError`, or `CheckpointError` for a
   * tensor that the engine worker could not take) nothing is left taken.
   */
  static async open(
    order: AttemptOrder,
    ports: RankPorts,
    clock: Clock,
    collective: Collective | null,
    receiving: Receiving | null,
  ): Promise<Attempt> {
    const slots = takeSlots(order.plan, ports);
    let socket: WorkerLink | null = null;
    try {
      socket = await ports.bindWorkerLink(order.epoch, order.version, order.verify);
      const attempt = new Attempt(order, ports, clock, collective, receiving, socket, slots);
      socket.check(attempt.#announceAll());
      await ports.segments.ready(attempt.#ownSegments());
      return attempt;
    } catch (error) {
      socket?.close();
      slots.staging?.free();
      slots.link.free();
      throw error;
    }
  }

  get linkAddress(): string {
    return this.#link.address;
  }

  /** None once they have been given up. */
  get stagingSlots(): number {
    return this.#staging === null ? 0 : stagingSlotCount(this.plan);
  }

  get linkSlots(): number {
    return linkSlotCount(this.plan);
  }

  /** No other rank takes part, so there is no order of broadcasts to keep. */
  get isAlone(): boolean {
    return this.plan.ranks.length === 1;
  }

  get bucketCount(): number {
    return this.plan.owners.length;
  }

  /** This rank's buckets, in the order in which they come. */
  get owned(): Iterable<number> {
    return this.#turns.keys();
  }

  owns(bucket: number): boolean {
    return this.#turns.has(bucket);
  }

  /** Which staging slot takes a bucket of this rank. */
  stagingSlot(bucket: number): number {
    return this.#turns.get(bucket)! % stagingSlotCount(this.plan);
  }

  /** Hands the engine worker the link buffer; the first reload waits for its answer. */
  connect(): Promise<void> {
    return this.#askWorker(() =>
      this.#link.open({ handle: this.#linkBuffer.ipcHandle, bytes: this.#linkBuffer.bytes }),
    );
  }

  /** H2D into a staging slot. */
  stage(bucket: number): Promise<Interval> {
    const { buffer, offset } = this.#stagingPlace(bucket);
    return this.#upload(bucket, buffer, offset);
  }

  /** H2D straight into the bucket's link slot: in serial mode, and for a rank that is alone. */
  uploadInPlace(bucket: number): Promise<Interval> {
    return this.#upload(bucket, this.#linkBuffer, this.#slotOffset(bucket));
  }

  /** Every rank calls this for the same buckets in the same order; one that is alone has nobody to broadcast to. */
  broadcast(bucket: number, { from, letsGo }: Carriage): Promise<Interval> {
    assert(this.#collective !== null, 'a rank that is alone issues no broadcasts');
    const destination = { buffer: this.#linkBuffer, offset: this.#slotOffset(bucket) };
    const own = from === 'staging' ? this.#stagingPlace(bucket) : destination;
    return this.#track(
      this.#collective.broadcast({
        root: this.plan.ranks.indexOf(this.plan.owners[bucket]!),
        source: from === 'peer' ? null : own,
        destination,
        bytes: this.plan.bucketBytes[bucket]!,
        letsGo,
        timeoutMilliseconds: deadlines.broadcast,
      }),
    );
  }

  /**
   * Lets the engine worker copy the bucket out of its slot, once it is there. Calls are served in their order: workers
   * report what they installed in the order in which it was announced, which has to be the plan's. The interval starts
   * when the worker is asked.
   */
  reload(bucket: number, arrival: Promise<unknown>): Promise<Interval> {
    return this.#askWorker(async () => {
      await arrival;
      const startedAt = this.#clock.now();
      await this.#link.load(this.#announce(bucket));
      return { startedAt, endedAt: this.#clock.now() };
    });
  }

  /**
   * Gives the staging slots back in the middle of an update. No bucket may be staged or on its way there, and the last
   * one that was broadcast from there has to have had the other ranks let go.
   */
  releaseStaging(): void {
    this.#staging?.free();
    this.#staging = null;
  }

  /** Of all exchanges so far, and of the pieces that came from other hosts. */
  get timeline(): RankTimeline {
    return this.spans.timeline(this.#ports.rank, this.#receiving?.spans ?? new Float64Array());
  }

  /** What other hosts gave. */
  get received(): Received[] {
    return this.#receiving?.received ?? [];
  }

  /** Everything has been taken as often as it is to be. */
  get isOver(): boolean {
    return this.#exchangesLeft === 0;
  }

  /**
   * Ends an exchange: the worker drops the buffer, the device memory goes back, and only then the post-hook runs. Rejects
   * with `VerificationError` if it says other things than after the exchange before.
   */
  async finish(): Promise<Installed | null> {
    await this.#receiving?.complete(this.#verify);
    await this.#receiving?.close();
    await this.#askWorker(() => this.#link.release());
    this.#freeSlots();
    const installed = await this.#askWorker(() => this.#link.finish());
    if (this.#installed !== null && !isDeepStrictEqual(installed, this.#installed)) {
      throw new VerificationError(
        `the draft model on the device of rank ${this.#ports.rank} was given other weights than the target model`,
      );
    }
    this.#installed = installed;
    this.#exchangesLeft -= 1;
    if (this.isOver) this.#link.close();
    return installed;
  }

  /** Takes device memory for the next exchange, on the same address. Throws `OutOfDeviceMemoryError`. */
  reopen(): void {
    const slots = takeSlots(this.plan, this.#ports);
    this.#linkBuffer = slots.link;
    this.#staging = slots.staging;
  }

  /** Ends the attempt early, whatever it was doing. Never rejects. */
  async abort(reason: string): Promise<void> {
    await Promise.all([this.#receiving?.discard(reason), this.#link.abort(reason)]);
    // The worker may still copy out of the slots until it has heard of the abort, and native copies of this rank
    // must not run into freed memory.
    await Promise.allSettled(this.#inFlight);
    this.#link.close();
    this.#freeSlots();
  }

  #freeSlots(): void {
    this.releaseStaging();
    this.#linkBuffer.free();
  }

  #stagingPlace(bucket: number): { readonly buffer: DeviceBuffer; readonly offset: number } {
    assert(this.#staging !== null, 'there is no staging slot any more');
    return { buffer: this.#staging, offset: this.stagingSlot(bucket) * this.plan.slotBytes };
  }

  #slotOffset(bucket: number): number {
    return (bucket % this.linkSlots) * this.plan.slotBytes;
  }

  #upload(bucket: number, destination: DeviceBuffer, base: number): Promise<Interval> {
    const transfers = transfersOf(this.plan, this.#manifest, bucket, base).map(({ segment, rectangles }) => ({
      segment: this.#ports.segments.attach(this.#manifest.segments[segment]!.path),
      rectangles,
    }));
    const { device } = this.#ports;
    const arrival = this.#receiving?.arrival(bucket) ?? Promise.resolve();
    return this.#track(arrival.then(() => device.upload(transfers, destination)));
  }

  /** Paths of the segments that this rank uploads from. */
  #ownSegments(): Set<string> {
    const { tensorStarts, tensorOrder } = this.plan;
    const paths = new Set<string>();
    for (const bucket of this.owned) {
      for (const row of tensorOrder.subarray(tensorStarts[bucket], tensorStarts[bucket + 1])) {
        paths.add(this.#manifest.segments[this.#manifest.segmentOf[row]!]!.path);
      }
    }
    return paths;
  }

  *#announceAll(): Iterable<LinkTensor> {
    for (let bucket = 0; bucket < this.bucketCount; bucket += 1) yield* this.#announce(bucket);
  }

  #announce(bucket: number): LinkTensor[] {
    const { tensorStarts, tensorOrder, tensorOffsets } = this.plan;
    const tensors: LinkTensor[] = [];
    for (let entry = tensorStarts[bucket]!; entry < tensorStarts[bucket + 1]!; entry += 1) {
      const row = tensorOrder[entry]!;
      tensors.push({
        name: this.#manifest.names[row]!,
        dtype: dtypeName(this.#manifest, row),
        shape: shapeOf(this.#manifest, row),
        offset: this.#slotOffset(bucket) + tensorOffsets[entry]!,
      });
    }
    return tensors;
  }

  #askWorker<T>(request: () => Promise<T>): Promise<T> {
    const answer = this.#linkTurn.then(request);
    // A failure ends the attempt through whoever awaits `answer`; those queued behind it fail with it.
    this.#linkTurn = answer;
    answer.catch(() => {});
    return this.#track(answer);
  }

  #track<T>(work: Promise<T>): Promise<T> {
    this.#inFlight.add(work);
    const forget = () => this.#inFlight.delete(work);
    work.then(forget, forget);
    return work;
  }
}

function turnsOf(rank: number, { owners }: Plan): ReadonlyMap<number, number> {
  const turns = new Map<number, number>();
  for (const [bucket, owner] of owners.entries()) if (owner === rank) turns.set(bucket, turns.size);
  return turns;
}

/** On a throw nothing is left taken. */
function takeSlots(plan: Plan, { device, rank }: RankPorts): SlotBuffers {
  const link = device.allocate(linkSlotCount(plan) * plan.slotBytes);
  try {
    const slots = Math.min(stagingSlotCount(plan), turnsOf(rank, plan).size);
    return { link, staging: slots > 0 ? device.allocate(slots * plan.slotBytes) : null };
  } catch (error) {
    link.free();
    throw error;
  }
}
