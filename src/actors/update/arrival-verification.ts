import { ask } from '../protocol/ask.ts';
import { deadlines } from '../protocol/deadlines.ts';
import { type PlannerMessage, toPlanner } from '../protocol/planner.ts';
import { toRank } from '../protocol/rank.ts';
import { isShort } from '../protocol/update-values.ts';
import type { UpdateContext } from './context.ts';

type Reports = Extract<PlannerMessage, { type: 'verify' }>['reports'];

/**
 * How long an engine whose workers have all acknowledged everything may take to answer its HTTP request, when the epoch
 * has failed elsewhere; and how long its verification may, at least.
 */
export const answerMilliseconds = 5_000;

/** Has the planner compare what arrived in one epoch. Digests of parts are asked for once for all instances that hold the same. */
export class ArrivalVerification {
  readonly #update: UpdateContext;
  readonly #epoch: number;
  /** By what ranks have said in short: instances for which that is the same are compared one after the other. */
  readonly #last = new Map<string, Promise<void>>();

  constructor(update: UpdateContext, epoch: number) {
    this.#update = update;
    this.#epoch = epoch;
  }

  /** Rejects with `VerificationError`. */
  async verify(instance: string, reports: Reports): Promise<void> {
    const key = JSON.stringify(reports.map(({ arrived }) => isShort(arrived) && arrived.digest));
    // What has become of that is its own affair.
    const before = this.#last.get(key)?.catch(() => {});
    const own = Promise.resolve(before).then(() => this.#verify(instance, reports));
    this.#last.set(key, own);
    await own;
  }

  async #verify(instance: string, reports: Reports): Promise<void> {
    const { lacking } = await this.#compare(instance, reports);
    if (lacking.length > 0) await this.#compare(instance, await this.#inFull(reports, lacking));
  }

  #compare(instance: string, reports: Reports): Promise<{ readonly lacking: readonly number[] }> {
    const { context, spec } = this.#update;
    const question = { layout: spec.checkpoint.layout, instance, reports };
    return ask(context, spec.planner, toPlanner.verify, question, this.#options);
  }

  async #inFull(reports: Reports, lacking: readonly number[]): Promise<Reports> {
    const { context, spec } = this.#update;
    return Promise.all(
      reports.map(async (report) => {
        if (!lacking.includes(report.rank)) return report;
        const { ref } = spec.ranks.find(({ rank }) => rank === report.rank)!;
        const question = { epoch: this.#epoch };
        return {
          ...report,
          arrived: await ask(context, ref, toRank.arrivedDigests, question, this.#options),
        };
      }),
    );
  }

  get #options() {
    return { deadlineMilliseconds: Math.max(answerMilliseconds, this.#update.left(deadlines.plan)) };
  }
}
