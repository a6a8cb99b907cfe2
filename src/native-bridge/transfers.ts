import { addon, type Interval } from './addon.ts';

/** From the first start to the last end of copies; rejects as the first that failed, once all have stopped. */
export async function wholeInterval(copies: readonly Promise<Interval>[]): Promise<Interval> {
  const settled = await Promise.allSettled(copies);
  const intervals = settled.map((copy) => {
    if (copy.status === 'rejected') throw copy.reason;
    return copy.value;
  });
  const now = addon.monotonicMilliseconds();
  if (intervals.length === 0) return { startedAt: now, endedAt: now };
  return {
    startedAt: Math.min(...intervals.map(({ startedAt }) => startedAt)),
    endedAt: Math.max(...intervals.map(({ endedAt }) => endedAt)),
  };
}
