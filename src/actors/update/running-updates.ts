import { DeadlineError } from '../../errors.ts';
import type { Context } from '../kernel/index.ts';
import type { SupervisorInbox } from '../supervisor/inbox.ts';
import type { Work } from '../supervisor/jobs.ts';
import type { UpdateOrder } from './context.ts';
import { Update, type UpdateOutcome } from './update.ts';

/** A step that ends at the end of the update's time says so in better words. */
const lateMilliseconds = 500;

/** The updates that are running: what they have to hear of the ranks that they read from, and when they are late. */
export class Updates {
  readonly #running = new Map<Work, Update>();

  /** `attempt` may run it again, with more memory. */
  run(
    work: Work,
    order: UpdateOrder,
    context: Context<SupervisorInbox>,
    attempt: (runOnce: () => Promise<UpdateOutcome>) => Promise<UpdateOutcome>,
  ): Promise<UpdateOutcome> {
    const callOff = this.#endInTime(work, order, context);
    const runOnce = () => {
      const update = new Update(context, order, work.abort.signal);
      this.#running.set(work, update);
      return update.run();
    };
    return attempt(runOnce).finally(callOff);
  }

  /** Of any work. */
  ended(work: Work): void {
    this.#running.delete(work);
  }

  sourceReady(rank: number): void {
    for (const update of this.#without(rank)) update.sourceReady(rank);
  }

  sourceLost(rank: number, reason: string, returns: boolean): void {
    for (const update of this.#without(rank)) update.sourceLost(rank, reason, returns);
  }

  #without(rank: number): Update[] {
    return [...this.#running].filter(([{ ranks }]) => !ranks.has(rank)).map(([, update]) => update);
  }

  /** Steps end by themselves when the update's time is over; this is for all that does not. The answer calls it off. */
  #endInTime(work: Work, { options }: UpdateOrder, { clock }: Context<SupervisorInbox>): () => void {
    const { timeoutMilliseconds } = options;
    return clock.after(timeoutMilliseconds + lateMilliseconds, () => {
      const awaited = this.#running.get(work)?.awaited;
      if (awaited === null) return;
      const waited = awaited === undefined ? '' : `, waiting for ${awaited}`;
      work.abort.abort(new DeadlineError(`${work.what} took longer than ${timeoutMilliseconds} ms${waited}`));
    });
  }
}
