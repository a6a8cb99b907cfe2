import { asFailure, type WeightcastError } from '../../errors.ts';
import type { Actor, ActorRef, Context } from '../kernel/index.ts';
import type { BroadcastRequest, RankTransfer } from './transfer.ts';

/** The next bucket of a slot: `stage` is for a staging slot, `forward` for a link slot. */
export type SlotJob = StageJob | ForwardJob;

interface StageJob {
  readonly type: 'stage';
  readonly transfer: RankTransfer;
  /** One that this rank owns. */
  readonly bucket: number;
}

interface ForwardJob extends BroadcastRequest {
  readonly type: 'forward';
  readonly transfer: RankTransfer;
  readonly bucket: number;
}

/** What a slot tells its rank: exactly one for each job. */
export type SlotReport =
  | {
      readonly type: 'slot-free';
      readonly epoch: number;
      readonly job: SlotJob['type'];
      readonly bucket: number;
    }
  | { readonly type: 'bucket-failed'; readonly epoch: number; readonly error: WeightcastError };

/**
 * One slot, for the lifetime of its rank. A job takes one bucket through the slot; until the actor reports that the slot is
 * free, the slot holds that bucket and nothing else is written to it.
 *
 * A staging slot: free, uploading, staged, broadcasting, free. A link slot: free, uploading (if the bucket is uploaded in
 * place), broadcasting, reloading, free.
 */
export class BucketActor implements Actor<SlotJob> {
  readonly #rank: ActorRef<SlotReport>;

  constructor(rank: ActorRef<SlotReport>) {
    this.#rank = rank;
  }

  async receive(job: SlotJob, context: Context<SlotJob>): Promise<void> {
    const { type, bucket, transfer } = job;
    const { epoch } = transfer;
    try {
      if (type === 'stage') await stage(job);
      else await forward(job);
      context.tell(this.#rank, { type: 'slot-free', epoch, job: type, bucket });
    } catch (thrown) {
      context.tell(this.#rank, { type: 'bucket-failed', epoch, error: asFailure(thrown) });
    }
  }
}

async function stage({ transfer, bucket }: StageJob): Promise<void> {
  await transfer.stage(bucket);
  await transfer.broadcastDone(bucket);
}

async function forward(job: ForwardJob): Promise<void> {
  const { transfer, bucket } = job;
  if (job.origin === 'host') await transfer.uploadInPlace(bucket);
  await transfer.broadcast(bucket, job);
  await Promise.all([transfer.reload(bucket), transfer.digest(bucket)]);
}
