import { bucketCount, linkSlotCount, type Plan, stagingSlotCount } from '../../src/plan/plan.ts';
import type { Speeds } from './speeds.ts';

/** What the pipeline of an update is told. */
export interface PipelineInput {
  readonly plan: Plan;
  readonly speeds: Speeds;
  readonly hostOf: (rank: number) => string;
  /** By rank: of each tensor of the manifest, 1 if it is announced to its worker. Default: all are. */
  readonly announcedTo?: (rank: number) => Uint8Array;
  /** By bucket: when its owner has its bytes in host memory, in milliseconds. Default: from the start. */
  readonly arrivals?: Float64Array;
}

/**
 * Milliseconds from the first upload to the last answer of a worker, bucket by bucket and rank by rank: each owner uploads in
 * order into its staging slots; broadcasts follow each other in the plan's order, in a ring of the ranks in their order, and
 * move only when every rank has a free link slot; each worker takes one bucket after the other, in its own time, has the next
 * ones announced meanwhile, and frees its slot. As actors/rank/pipeline.ts does it; no message takes time but those to the
 * worker.
 */
export function streamMilliseconds(input: PipelineInput): number {
  return input.plan.ranks.length === 1 ? alone(input) : together(input);
}

function alone({ plan, speeds, arrivals }: PipelineInput): number {
  const slots = linkSlotCount(plan);
  const freeAt = new Float64Array(slots);
  let uploaded = 0;
  let answered = 0;
  for (let bucket = 0; bucket < bucketCount(plan); bucket += 1) {
    const start = Math.max(uploaded, freeAt[bucket % slots]!, arrivals?.[bucket] ?? 0);
    uploaded = start + plan.bucketBytes[bucket]! / speeds.upload;
    answered = Math.max(asked(uploaded, speeds), answered) + workerTime(plan, bucket, speeds);
    freeAt[bucket % slots] = answered + speeds.workerTrip / 2;
  }
  return answered + speeds.workerTrip / 2;
}

function together(input: PipelineInput): number {
  const { plan, speeds, hostOf, arrivals } = input;
  const ranks = plan.ranks.length;
  const slots = linkSlotCount(plan);
  const ring = ringOf(plan, speeds, hostOf);
  const uploads = new Uploads(plan, speeds, stagingSlotCount(plan));
  /** When a rank's part in the last broadcast was over, when its worker last answered, and when its slots are free. */
  const over = new Float64Array(ranks);
  const answered = new Float64Array(ranks);
  const freeAt = new Float64Array(ranks * slots);
  const workOf = workersTimes(input);
  for (let bucket = 0; bucket < bucketCount(plan); bucket += 1) {
    const root = ring.indexOf.get(plan.owners[bucket]!)!;
    const slot = bucket % slots;
    const ready = uploads.done(bucket, arrivals?.[bucket] ?? 0);
    let first = ready;
    let behind = 0;
    for (let step = 0; step < ranks; step += 1) {
      const at = (root + step) % ranks;
      first = Math.max(first, Math.max(over[at]!, freeAt[at * slots + slot]!) - behind);
      behind += ring.hops[at]!;
    }
    const duration = speeds.broadcastStart + plan.bucketBytes[bucket]! / ring.rate;
    behind = 0;
    for (let step = 0; step < ranks; step += 1) {
      const at = (root + step) % ranks;
      const end = first + behind + duration;
      behind += ring.hops[at]!;
      over[at] = end;
      const work = workOf[at]![bucket]!;
      // Of a bucket of which nothing is announced the worker is not asked.
      const isAsked = !Number.isNaN(work);
      if (isAsked) answered[at] = Math.max(asked(end, speeds), answered[at]!) + work;
      freeAt[at * slots + slot] = isAsked ? answered[at]! + speeds.workerTrip / 2 : end + speeds.notice;
    }
    uploads.free(bucket, over[root]!);
  }
  return answered.reduce((most, time) => Math.max(most, time)) + speeds.workerTrip / 2;
}

/** When a worker has been asked for a bucket that has arrived. */
function asked(arrived: number, { notice, workerTrip }: Speeds): number {
  return arrived + notice + workerTrip / 2;
}

/** What an engine worker does in all, one bucket after the other, if it never has to wait. */
export function workerMilliseconds(plan: Plan, speeds: Speeds, announced: Uint8Array | null = null): number {
  return workerTimes(plan, speeds, announced).reduce((sum, time) => sum + (time || 0), 0);
}

/** Of each rank, by its position in the plan, what {@link workerTimes} has. Ranks to whose workers the same is announced share it. */
function workersTimes({ plan, speeds, announcedTo }: PipelineInput): Float64Array[] {
  const known = new Map<Uint8Array | null, Float64Array>();
  return Array.from(plan.ranks, (rank) => {
    const announced = announcedTo?.(rank) ?? null;
    const times = known.get(announced) ?? workerTimes(plan, speeds, announced);
    known.set(announced, times);
    return times;
  });
}

/** What a worker does for each bucket; NaN for one of which nothing is announced to it. */
function workerTimes(plan: Plan, speeds: Speeds, announced: Uint8Array | null): Float64Array {
  return Float64Array.from(plan.owners, (_, bucket) => workerTime(plan, bucket, speeds, announced));
}

function workerTime(
  { tensorStarts, tensorOrder }: Plan,
  bucket: number,
  speeds: Speeds,
  announced: Uint8Array | null = null,
): number {
  const [start, end] = [tensorStarts[bucket]!, tensorStarts[bucket + 1]!];
  let tensors = end - start;
  if (announced !== null) {
    tensors = 0;
    for (let entry = start; entry < end; entry += 1) tensors += announced[tensorOrder[entry]!]!;
    if (tensors === 0) return Number.NaN;
  }
  return speeds.workerBucket + tensors * speeds.workerTensor;
}

/** What each owner uploads, one bucket after the other, as far as its staging slots allow. */
class Uploads {
  readonly #plan: Plan;
  readonly #speeds: Speeds;
  readonly #slots: number;
  /** By owner: the end of its last upload, and when each of its last buckets had left its staging slot. */
  readonly #owners = new Map<number, { uploaded: number; left: number[] }>();

  constructor(plan: Plan, speeds: Speeds, slots: number) {
    this.#plan = plan;
    this.#speeds = speeds;
    // In serial mode a bucket is uploaded into its link slot, one at a time.
    this.#slots = Math.max(1, slots);
  }

  /** When the bucket is on its owner's device. Called for every bucket in the plan's order. */
  done(bucket: number, arrival: number): number {
    const rank = this.#plan.owners[bucket]!;
    const owner = this.#owners.get(rank) ?? { uploaded: 0, left: [] };
    this.#owners.set(rank, owner);
    const free = owner.left.at(-this.#slots) ?? 0;
    owner.uploaded =
      Math.max(owner.uploaded, free, arrival) + this.#plan.bucketBytes[bucket]! / this.#speeds.upload;
    return owner.uploaded;
  }

  free(bucket: number, time: number): void {
    const { left } = this.#owners.get(this.#plan.owners[bucket]!)!;
    left.push(time);
    if (left.length > this.#slots) left.shift();
  }
}

/** The ranks in their order, what the next one is away, and the rate of the slowest link between them. */
function ringOf({ ranks }: Plan, speeds: Speeds, hostOf: (rank: number) => string) {
  const crosses = Array.from(ranks, (rank, at) => hostOf(rank) !== hostOf(ranks[(at + 1) % ranks.length]!));
  return {
    indexOf: new Map(Array.from(ranks, (rank, at) => [rank, at])),
    hops: Float64Array.from(crosses, (crossing) => (crossing ? speeds.networkHop : speeds.hop)),
    rate: crosses.includes(true) ? Math.min(speeds.broadcast, speeds.network) : speeds.broadcast,
  };
}
