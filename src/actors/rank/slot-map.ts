import { isLarge, linkSlotCount, type Plan, stagingSlotCount } from '../../plan/plan.ts';

/** Which of one rank's slots each bucket of a plan goes through. */
export class SlotMap {
  readonly plan: Plan;
  /** Without the one for large buckets, which comes after them. */
  readonly linkSlots: number;
  /** Slots that the rank's own buckets are staged in; never more than there are such buckets. */
  readonly stagingSlots: number;
  /** The buckets that the rank uploads, in the plan's order. */
  readonly owned: readonly number[];
  /** Those of them that are not large: they are staged, where there are staging slots. */
  readonly staged: readonly number[];
  /** Of each of `staged`, its position. */
  readonly #stagedAt: ReadonlyMap<number, number>;
  readonly #owned: ReadonlySet<number>;
  readonly #linkSlotOf: Uint8Array;

  constructor(rank: number, plan: Plan) {
    this.plan = plan;
    this.linkSlots = linkSlotCount(plan);
    this.owned = [...plan.owners.keys()].filter((bucket) => plan.owners[bucket] === rank);
    this.#owned = new Set(this.owned);
    this.staged = this.owned.filter((bucket) => !isLarge(plan, bucket));
    this.#stagedAt = new Map(this.staged.map((bucket, position) => [bucket, position]));
    this.stagingSlots = Math.min(stagingSlotCount(plan), this.staged.length);
    this.#linkSlotOf = linkSlotsOf(plan, this.linkSlots);
  }

  get buckets(): number {
    return this.plan.owners.length;
  }

  owns(bucket: number): boolean {
    return this.#owned.has(bucket);
  }

  /** That it is uploaded ahead into a staging slot, as long as the rank has any. */
  isStaged(bucket: number): boolean {
    return this.#stagedAt.has(bucket);
  }

  linkSlot(bucket: number): number {
    return this.#linkSlotOf[bucket]!;
  }

  /** For a staged bucket, if there are staging slots. */
  stagingSlot(bucket: number): number {
    return this.#stagedAt.get(bucket)! % this.stagingSlots;
  }
}

/** Round-robin; large buckets all go through the slot after the others. */
function linkSlotsOf(plan: Plan, linkSlots: number): Uint8Array {
  let ordinary = 0;
  return Uint8Array.from(plan.owners, (_, bucket) => {
    if (isLarge(plan, bucket)) return linkSlots;
    ordinary += 1;
    return (ordinary - 1) % linkSlots;
  });
}
