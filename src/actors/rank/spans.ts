import type { Interval } from '../../native-bridge/addon.ts';
import type { UpdateRates } from '../../plan/parts-choice.ts';
import type { Plan } from '../../plan/plan.ts';
import type { RankTimeline, SerialFrom } from '../protocol/update-values.ts';
import { updateRates } from './update-rates.ts';

type Stage = 'h2d' | 'broadcast' | 'reload';

/** Start and end of each stage of each bucket, on one rank in one epoch, over all exchanges. */
export class Spans {
  readonly #numbers: Record<Stage, number[]> = { h2d: [], broadcast: [], reload: [] };

  /** Where staging slots were given up; null if they were not. */
  serialFrom: SerialFrom | null = null;

  add(stage: Stage, bucket: number, { startedAt, endedAt }: Interval): void {
    this.#numbers[stage].push(bucket, startedAt, endedAt);
  }

  /** The start of the first upload; null before that. */
  get startedAt(): number | null {
    const { h2d } = this.#numbers;
    const starts = h2d.filter((_, at) => at % 3 === 1);
    return starts.length === 0 ? null : starts.reduce((least, start) => Math.min(least, start));
  }

  /** The end of the last reload; null before that. */
  get endedAt(): number | null {
    const { reload } = this.#numbers;
    const ends = reload.filter((_, at) => at % 3 === 2);
    return ends.length === 0 ? null : ends.reduce((most, end) => Math.max(most, end));
  }

  rates(plan: Plan, isWatched: boolean): UpdateRates {
    return updateRates(this.#numbers, plan, isWatched);
  }

  timeline(rank: number, read: Float64Array): RankTimeline {
    const { h2d, broadcast, reload } = this.#numbers;
    return {
      rank,
      read,
      h2d: Float64Array.from(h2d),
      broadcast: Float64Array.from(broadcast),
      reload: Float64Array.from(reload),
      serialFrom: this.serialFrom,
    };
  }
}
