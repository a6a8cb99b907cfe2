import type { LoadJob, SegmentStore } from '../../checkpoint/segment-store.ts';
import { AbortedError, WeightcastError } from '../../errors.ts';
import type { Context, Reply } from '../kernel/index.ts';
import type { LoadRequest } from '../protocol/checkpoint-values.ts';
import type { Progress } from '../protocol/status-values.ts';
import type { RankInbox } from './inbox.ts';

/** The load that a rank has under way: its share of a checkpoint. */
export class Loading {
  readonly #segments: SegmentStore;
  #running: { readonly job: LoadJob; readonly reply: Reply<{ digests: BigUint64Array }> } | null = null;

  constructor(segments: SegmentStore) {
    this.#segments = segments;
  }

  get isRunning(): boolean {
    return this.#running !== null;
  }

  /** The end arrives as `load-ended`. */
  start(order: LoadRequest, reply: Reply<{ digests: BigUint64Array }>, context: Context<RankInbox>): void {
    // The supervisor runs one registration at a time, so that the load before this one is of no use any more.
    this.#running?.reply.fail(new AbortedError('another registration has begun'));
    const job = this.#segments.load(order);
    this.#running = { job, reply };
    context.pipe(
      job.digests,
      (digests) => ({ type: 'load-ended', job, result: digests }),
      (error) => ({ type: 'load-ended', job, result: error }),
    );
  }

  /** Answers who asked for it, unless another one has begun since. */
  end(job: LoadJob, result: BigUint64Array | WeightcastError): void {
    const running = this.#running;
    if (running?.job !== job) return;
    this.#running = null;
    if (result instanceof WeightcastError) running.reply.fail(result);
    else running.reply.succeed({ digests: result });
  }

  progress(rank: number): Progress | null {
    const job = this.#running?.job;
    // What was written before has only to be made ready.
    if (job === undefined || job.totalBytes === 0) return null;
    return { activity: 'load', rank, doneBytes: job.doneBytes(), totalBytes: job.totalBytes };
  }
}
