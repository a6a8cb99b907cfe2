import { MOST_LINK_SLOTS, MOST_STAGING_SLOTS } from '../../plan/plan.ts';
import type { ActorRef, Context } from '../kernel/index.ts';
import type { Progress } from '../protocol/status-values.ts';
import { BucketActor, type SlotJob, type SlotReport } from './bucket.ts';
import type { SlotMap } from './slot-map.ts';
import type { BucketOrigin, RankTransfer } from './transfer.ts';

/** The slots of a rank, each with its actor. */
export interface Slots {
  readonly staging: readonly ActorRef<SlotJob>[];
  readonly links: readonly ActorRef<SlotJob>[];
}

/** The actors of all slots that a rank may have, as its children. */
export function spawnSlots(context: Context<SlotReport>): Slots {
  const spawn = (length: number, kind: string) =>
    Array.from({ length }, (_, slot) =>
      context.spawn<SlotJob>(`${kind}-slot-${slot}`, () => new BucketActor(context.self)),
    );
  return { staging: spawn(MOST_STAGING_SLOTS, 'staging'), links: spawn(MOST_LINK_SLOTS, 'link') };
}

interface Staged {
  readonly bucket: number;
  /** A link slot has been given it. */
  isForwarded: boolean;
}

/**
 * Which bucket goes into which slot when, on one rank in one exchange.
 *
 * Every bucket goes through a link slot, in the plan's order and round-robin: a slot gets its next bucket when the
 * engine worker has copied the last. The rank's own buckets are staged ahead, as many as there are staging slots. A rank
 * without staging slots (it is alone, or in serial mode) uploads its buckets straight into their link slots; so does
 * every rank with large buckets.
 */
export class Pipeline {
  readonly transfer: RankTransfer;
  readonly #map: SlotMap;
  readonly #slots: Slots;
  readonly #tell: (slot: ActorRef<SlotJob>, job: SlotJob) => void;

  #nextForward = 0;
  readonly #linkTaken: boolean[];
  #reloaded = 0;
  #reloadedBytes = 0;

  /** Index into the map's `staged` of the next bucket to stage. */
  #nextStage = 0;
  /** What the staging slots hold, in the plan's order. */
  #staged: Staged[] = [];
  #givingUpStaging = false;
  /** After the broadcast that was forwarded last out of a staging slot, peers have closed them: none may follow. */
  #isStagingClosed = false;

  constructor(transfer: RankTransfer, slots: Slots, tell: (slot: ActorRef<SlotJob>, job: SlotJob) => void) {
    this.transfer = transfer;
    this.#slots = slots;
    this.#tell = tell;
    this.#map = transfer.map;
    this.#linkTaken = new Array(this.#map.linkSlots + 1).fill(false);
  }

  /** The engine worker has copied every bucket, and all slots are free. */
  get isDone(): boolean {
    return this.#reloaded === this.#map.buckets && this.#staged.length === 0;
  }

  progress(rank: number): Progress {
    const { receiving } = this.transfer;
    if (receiving.doneBytes < receiving.totalBytes) return { activity: 'receive', rank, ...receiving };
    const totalBytes = this.#map.plan.bucketBytes.reduce((sum, bytes) => sum + bytes, 0);
    return { activity: 'update', rank, doneBytes: this.#reloadedBytes, totalBytes };
  }

  start(): void {
    this.#fillSlots();
  }

  slotFree({ job, bucket }: Extract<SlotReport, { type: 'slot-free' }>): void {
    if (job === 'stage') {
      this.#staged = this.#staged.filter((staged) => staged.bucket !== bucket);
    } else {
      this.#linkTaken[this.#map.linkSlot(bucket)] = false;
      this.#reloaded += 1;
      this.#reloadedBytes += this.#map.plan.bucketBytes[bucket]!;
    }
    this.#fillSlots();
  }

  /** Device memory is short: serial mode for the rest of the exchange, which does without staging slots once they are empty. */
  giveUpStaging(): void {
    this.#givingUpStaging = true;
    this.#fillSlots();
  }

  #fillSlots(): void {
    while (this.#mayStage()) this.#stageNext();
    const isEmpty = this.#isStagingClosed && this.#staged.length === 0;
    if (this.#givingUpStaging && isEmpty && this.transfer.stagingSlots > 0)
      this.transfer.releaseStaging(this.#nextForward);
    while (this.#mayForward()) this.#forwardNext();
  }

  /**
   * Peers close the staging slots with the last broadcast out of one. When the slots are given up after all that they
   * hold was forwarded without that, one more bucket has to be staged.
   */
  #mayStage(): boolean {
    if (this.#isStagingClosed || this.#nextStage === this.#map.staged.length) return false;
    if (this.#staged.length >= this.transfer.stagingSlots) return false;
    return !this.#givingUpStaging || this.#staged.every(({ isForwarded }) => isForwarded);
  }

  #stageNext(): void {
    const bucket = this.#map.staged[this.#nextStage]!;
    this.#nextStage += 1;
    this.#staged.push({ bucket, isForwarded: false });
    const { transfer } = this;
    this.#tell(this.#slots.staging[this.#map.stagingSlot(bucket)]!, { type: 'stage', transfer, bucket });
  }

  /** The next bucket's link slot must be free, and the bucket staged if it goes through a staging slot. */
  #mayForward(): boolean {
    const bucket = this.#nextForward;
    if (bucket === this.#map.buckets || this.#linkTaken[this.#map.linkSlot(bucket)]) return false;
    const isStagedAhead = this.#map.isStaged(bucket) && this.transfer.stagingSlots > 0;
    return !isStagedAhead || this.#stagedAs(bucket) !== undefined;
  }

  #forwardNext(): void {
    const bucket = this.#nextForward;
    this.#nextForward += 1;
    const { transfer } = this;
    const slot = this.#map.linkSlot(bucket);
    this.#linkTaken[slot] = true;
    const staged = this.#stagedAs(bucket);
    const releaseAfter = this.#isLastOfMemory(bucket, staged);
    if (staged !== undefined) {
      staged.isForwarded = true;
      this.#isStagingClosed = releaseAfter;
    }
    const inPlace: BucketOrigin = this.#map.owns(bucket) ? 'host' : 'peer';
    const origin = staged === undefined ? inPlace : 'staging';
    this.#tell(this.#slots.links[slot]!, { type: 'forward', transfer, bucket, origin, releaseAfter });
  }

  #stagedAs(bucket: number): Staged | undefined {
    return this.#staged.find((staged) => staged.bucket === bucket);
  }

  /** Whether the memory that this rank broadcasts from is freed after this bucket. */
  #isLastOfMemory(bucket: number, staged: Staged | undefined): boolean {
    if (bucket === this.#map.owned.at(-1)) return true;
    return this.#givingUpStaging && staged !== undefined && staged === this.#staged.at(-1);
  }
}
