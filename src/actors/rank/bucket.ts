import { asFailure, type WeightcastError } from '../../errors.ts';
import type { Actor, ActorRef, Context } from '../kernel/index.ts';
import type { RankInbox } from './inbox.ts';
import type { Attempt } from './transfer.ts';

export type BucketMessage =
  /** Upload a bucket that this rank owns into this slot. */
  | { readonly type: 'stage'; readonly attempt: Attempt; readonly bucket: number }
  /** Take a bucket through broadcast and reload. */
  | ({ readonly type: 'carry'; readonly attempt: Attempt; readonly bucket: number } & Carriage);

export interface Carriage {
  readonly from: CarryFrom;
  /** Of this rank's buckets: the others let go of its memory, because some of it is freed then. */
  readonly letsGo: boolean;
}

/** Where a bucket comes from before its broadcast: a staging slot of this rank, its host memory, or another rank. */
export type CarryFrom = 'staging' | 'host' | 'peer';

/**
 * A bucket actor lives as long as its rank and stands for one slot. A staging slot's takes the rank's own buckets
 * from host memory to the device; a link slot's takes any bucket through broadcast and reload. It works on one
 * bucket at a time, which is what makes a slot safe to reuse.
 */
export class BucketActor implements Actor<BucketMessage> {
  readonly #rank: ActorRef<RankInbox>;

  constructor(rank: ActorRef<RankInbox>) {
    this.#rank = rank;
  }

  async receive(message: BucketMessage, context: Context<BucketMessage>): Promise<void> {
    const { attempt, bucket } = message;
    try {
      if (message.type === 'stage') await this.#stage(attempt, bucket, context);
      else await this.#carry(attempt, bucket, message, context);
    } catch (thrown) {
      const error: WeightcastError = asFailure(thrown);
      context.tell(this.#rank, { type: 'bucket-failed', epoch: attempt.epoch, error });
    }
  }

  async #stage(attempt: Attempt, bucket: number, context: Context<BucketMessage>): Promise<void> {
    const h2d = await attempt.stage(bucket);
    context.tell(this.#rank, { type: 'staged', epoch: attempt.epoch, bucket, h2d });
  }

  async #carry(
    attempt: Attempt,
    bucket: number,
    { from, letsGo }: Carriage,
    context: Context<BucketMessage>,
  ): Promise<void> {
    const { epoch } = attempt;
    const upload = from === 'host' ? attempt.uploadInPlace(bucket) : null;
    // A rank that is alone uploads several buckets at once, and any of them may be there first.
    const reload = attempt.isAlone ? attempt.reload(bucket, upload!) : null;
    if (upload !== null) {
      context.tell(this.#rank, { type: 'uploaded-in-place', epoch, bucket, h2d: await upload });
    }
    if (reload !== null) {
      context.tell(this.#rank, { type: 'reloaded', epoch, bucket, reload: await reload });
      return;
    }
    const arrival = attempt.broadcast(bucket, { from, letsGo });
    // Told before it is done: the next bucket's broadcast may queue up behind this one, in the plan's order.
    context.tell(this.#rank, { type: 'broadcast-issued', epoch, bucket });
    context.tell(this.#rank, { type: 'broadcast-done', epoch, bucket, broadcast: await arrival });
    const afterwards = attempt.reload(bucket, arrival);
    context.tell(this.#rank, { type: 'reloaded', epoch, bucket, reload: await afterwards });
  }
}
