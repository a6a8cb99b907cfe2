import type { Interval } from '../../native-bridge/addon.ts';
import type { RankTimeline } from '../protocol/update-values.ts';

type Stage = 'h2d' | 'broadcast' | 'reload';

/** Start and end of each stage of each bucket, on one rank in one epoch, over all exchanges. */
export class Spans {
  readonly #numbers: Record<Stage, number[]> = { h2d: [], broadcast: [], reload: [] };

  add(stage: Stage, bucket: number, { startedAt, endedAt }: Interval): void {
    this.#numbers[stage].push(bucket, startedAt, endedAt);
  }

  timeline(rank: number, read: Float64Array): RankTimeline {
    const { h2d, broadcast, reload } = this.#numbers;
    return {
      rank,
      read,
      h2d: Float64Array.from(h2d),
      broadcast: Float64Array.from(broadcast),
      reload: Float64Array.from(reload),
    };
  }
}
