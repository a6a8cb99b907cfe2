import type { ActorRef } from '../kernel/index.ts';
import type { BucketMessage } from './bucket.ts';
import type { RankInbox } from './inbox.ts';
import type { Attempt } from './transfer.ts';

/** The slots of a rank, each with the actor that stands for it. */
export interface Slots {
  readonly staging: readonly ActorRef<BucketMessage>[];
  readonly links: readonly ActorRef<BucketMessage>[];
}

interface Staged {
  readonly bucket: number;
  /** It is there. */
  isReady: boolean;
  /** It has been sent on its way. */
  isCarried: boolean;
}

type StreamMessage = Extract<
  RankInbox,
  { type: 'staged' | 'uploaded-in-place' | 'broadcast-issued' | 'broadcast-done' | 'reloaded' }
>;

/**
 * Which bucket goes into which slot when, on one rank in one epoch.
 *
 * Buckets go through the link slots in the plan's order, turn and turn about; a slot takes the next one when the
 * engine worker has copied the last. At most one `carry` is on its way to being issued, because every rank must
 * issue its broadcasts in the same order. The rank's own buckets are staged ahead of their turn. A rank that is alone
 * issues no broadcasts: it fills every link slot that is free.
 */
export class Stream {
  readonly attempt: Attempt;
  readonly #slots: Slots;
  readonly #tell: (slot: ActorRef<BucketMessage>, message: BucketMessage) => void;
  readonly #owned: readonly number[];

  #nextCarry = 0;
  #issuing = false;
  #reloaded = 0;
  #reloadedBytes = 0;
  readonly #slotTaken: boolean[];

  /** Index into `#owned` of the next bucket to stage. */
  #nextStage = 0;
  /** What the staging slots hold, in the plan's order. */
  #staged: Staged[] = [];
  #givingUpStaging = false;
  /** The other ranks have been told to let go of the staging slots: nothing more is broadcast from there. */
  #isStagingOver = false;

  constructor(
    attempt: Attempt,
    slots: Slots,
    tell: (slot: ActorRef<BucketMessage>, message: BucketMessage) => void,
  ) {
    this.attempt = attempt;
    this.#slots = slots;
    this.#tell = tell;
    this.#slotTaken = new Array(attempt.linkSlots).fill(false);
    this.#owned = [...attempt.owned];
  }

  get isDone(): boolean {
    return this.#reloaded === this.attempt.bucketCount;
  }

  get reloadedBytes(): number {
    return this.#reloadedBytes;
  }

  start(): void {
    this.#advance();
  }

  /** Device memory got short: the rest of the update does without staging slots. */
  giveUpStaging(): void {
    this.#givingUpStaging = true;
    this.#advance();
  }

  handle(message: StreamMessage): void {
    switch (message.type) {
      case 'staged':
        this.attempt.spans.add('h2d', message.bucket, message.h2d);
        this.#staged.find(({ bucket }) => bucket === message.bucket)!.isReady = true;
        break;
      case 'uploaded-in-place':
        this.attempt.spans.add('h2d', message.bucket, message.h2d);
        break;
      case 'broadcast-issued':
        this.#issuing = false;
        break;
      case 'broadcast-done':
        this.attempt.spans.add('broadcast', message.bucket, message.broadcast);
        this.#staged = this.#staged.filter(({ bucket }) => bucket !== message.bucket);
        break;
      case 'reloaded':
        this.attempt.spans.add('reload', message.bucket, message.reload);
        this.#slotTaken[message.bucket % this.attempt.linkSlots] = false;
        this.#reloaded += 1;
        this.#reloadedBytes += this.attempt.plan.bucketBytes[message.bucket]!;
        break;
    }
    this.#advance();
  }

  #advance(): void {
    this.#refillStaging();
    while (!this.#issuing && this.#nextCarry < this.attempt.bucketCount) {
      if (!this.#carryNext()) return;
    }
  }

  #refillStaging(): void {
    while (this.#staged.length < this.attempt.stagingSlots && this.#mayStage()) {
      const bucket = this.#owned[this.#nextStage]!;
      this.#nextStage += 1;
      this.#staged.push({ bucket, isReady: false, isCarried: false });
      const slot = this.#slots.staging[this.attempt.stagingSlot(bucket)]!;
      this.#tell(slot, { type: 'stage', attempt: this.attempt, bucket });
    }
    if (this.#givingUpStaging && this.#isStagingOver && this.#staged.length === 0)
      this.attempt.releaseStaging();
  }

  /** The others let go of the staging slots with a broadcast out of one: where they are given up, that needs one more. */
  #mayStage(): boolean {
    if (this.#isStagingOver || this.#nextStage === this.#owned.length) return false;
    return !this.#givingUpStaging || this.#staged.every(({ isCarried }) => isCarried);
  }

  /** False if the next bucket has to wait. */
  #carryNext(): boolean {
    const bucket = this.#nextCarry;
    const slot = bucket % this.attempt.linkSlots;
    if (this.#slotTaken[slot]) return false;
    const staged = this.#staged.find((one) => one.bucket === bucket);
    if (staged?.isReady === false) return false;
    // The staging slots may still hold earlier buckets that are being broadcast; this one's turn to be staged comes.
    if (this.attempt.owns(bucket) && staged === undefined && this.attempt.stagingSlots > 0) return false;
    this.#nextCarry += 1;
    this.#issuing = !this.attempt.isAlone;
    this.#slotTaken[slot] = true;
    const letsGo = this.#isLastOfMemory(bucket, staged);
    if (staged !== undefined) {
      staged.isCarried = true;
      this.#isStagingOver = letsGo;
    }
    const from = staged !== undefined ? 'staging' : this.attempt.owns(bucket) ? 'host' : 'peer';
    this.#tell(this.#slots.links[slot]!, { type: 'carry', attempt: this.attempt, bucket, from, letsGo });
    return true;
  }

  /** Whether what this rank broadcasts from is given back after this bucket. */
  #isLastOfMemory(bucket: number, staged: Staged | undefined): boolean {
    if (bucket === this.#owned.at(-1)) return true;
    return this.#givingUpStaging && staged !== undefined && staged === this.#staged.at(-1);
  }
}
