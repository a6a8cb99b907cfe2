import { linkSlotCount, type Plan, stagingSlotCount } from '../../plan/plan.ts';

/** Which of one rank's slots each bucket of a plan goes through. */
export class SlotMap {
  readonly plan: Plan;
  readonly linkSlots: number;
  /** Slots that the rank's own buckets are staged in; never more than there are such buckets. */
  readonly stagingSlots: number;
  /** The buckets that the rank uploads, each with its position among them. */
  readonly #owned = new Map<number, number>();

  constructor(rank: number, plan: Plan) {
    this.plan = plan;
    for (const [bucket, owner] of plan.owners.entries()) {
      if (owner === rank) this.#owned.set(bucket, this.#owned.size);
    }
    this.linkSlots = linkSlotCount(plan);
    this.stagingSlots = Math.min(stagingSlotCount(plan), this.#owned.size);
  }

  get buckets(): number {
    return this.plan.owners.length;
  }

  /** The buckets that this rank uploads, in the plan's order. */
  get owned(): number[] {
    return [...this.#owned.keys()];
  }

  owns(bucket: number): boolean {
    return this.#owned.has(bucket);
  }

  linkSlot(bucket: number): number {
    return bucket % this.linkSlots;
  }

  /** For a bucket of this rank, if it has staging slots. */
  stagingSlot(bucket: number): number {
    return this.#owned.get(bucket)! % this.stagingSlots;
  }
}
