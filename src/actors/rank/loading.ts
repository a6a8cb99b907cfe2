import type { ExaminedFile, LoadJob, SegmentStore } from '../../checkpoint/segment-store.ts';
import { AbortedError, WeightcastError } from '../../errors.ts';
import type { Context, Reply } from '../kernel/index.ts';
import type { LoadRequest } from '../protocol/checkpoint-values.ts';
import type { Progress } from '../protocol/status-values.ts';
import type { RankInbox } from './inbox.ts';

/** The running load of a rank: its share of a checkpoint. */
export class Loading {
  readonly #segments: SegmentStore;
  #running: { readonly job: LoadJob; readonly reply: Reply<{ digests: BigUint64Array }> } | null = null;

  constructor(segments: SegmentStore) {
    this.#segments = segments;
  }

  get isRunning(): boolean {
    return this.#running !== null;
  }

  /** How this host sees files, before it is chosen to load them. */
  async examine(files: Parameters<SegmentStore['examine']>[0]): Promise<{ files: ExaminedFile[] }> {
    return { files: await this.#segments.examine(files) };
  }

  /** Sends the rank `load-ended` when the load is done. */
  start(order: LoadRequest, reply: Reply<{ digests: BigUint64Array }>, context: Context<RankInbox>): void {
    // The supervisor runs one registration at a time: the one before has been aborted.
    this.#running?.reply.fail(new AbortedError('replaced by the load of a newer registration'));
    const job = this.#segments.load(order);
    this.#running = { job, reply };
    context.pipe(
      job.digests,
      (digests) => ({ type: 'load-ended', job, result: digests }),
      (error) => ({ type: 'load-ended', job, result: error }),
    );
  }

  /** Replies to the load request, unless a newer one has replaced it. */
  end(job: LoadJob, result: BigUint64Array | WeightcastError): void {
    const running = this.#running;
    if (running?.job !== job) return;
    this.#running = null;
    if (result instanceof WeightcastError) running.reply.fail(result);
    else running.reply.succeed({ digests: result });
  }

  progress(rank: number): Progress | null {
    const job = this.#running?.job;
    // Segments that were written in place need no bytes read: nothing to show.
    if (job === undefined || job.totalBytes === 0) return null;
    return { activity: 'load', rank, doneBytes: job.doneBytes(), totalBytes: job.totalBytes };
  }
}
