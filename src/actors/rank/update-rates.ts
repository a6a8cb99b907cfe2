import { type UpdateRates, watchedReads } from '../../plan/parts-choice.ts';
import type { Plan } from '../../plan/plan.ts';

/** A bucket of fewer bytes takes longer to begin and to be noticed than to move. */
const leastBytes = 16 * 2 ** 20;
const leastBuckets = 4;
/** Of fewer tensors the buckets take their time, too. */
const leastTensors = 200;

/** Of each stage three numbers for each bucket, as in a timeline. */
interface StageSpans {
  readonly h2d: readonly number[];
  readonly broadcast: readonly number[];
  readonly reload: readonly number[];
}

/** What an update by whole tensors has shown. `isWatched`: the engine worker has recorded what its model reads. */
export function updateRates(
  { h2d, broadcast, reload }: StageSpans,
  { bucketBytes, tensorStarts }: Plan,
  isWatched: boolean,
): UpdateRates {
  const tensor = tensorMilliseconds(reload, tensorStarts);
  return {
    upload: linkRate(h2d, bucketBytes),
    broadcast: linkRate(broadcast, bucketBytes),
    tensor: tensor === null ? null : tensor / (isWatched ? watchedReads : 1),
  };
}

/**
 * What a link does when nothing keeps it from working: only a quarter of the buckets went faster, the others waited for memory, or for
 * other ranks. In bytes per millisecond; null for too few buckets.
 */
function linkRate(spans: readonly number[], bucketBytes: Float64Array): number | null {
  const rates: number[] = [];
  for (let at = 0; at < spans.length; at += 3) {
    const [bytes, milliseconds] = [bucketBytes[spans[at]!]!, spans[at + 2]! - spans[at + 1]!];
    if (bytes >= leastBytes && milliseconds > 0) rates.push(bytes / milliseconds);
  }
  if (rates.length < leastBuckets) return null;
  rates.sort((one, other) => other - one);
  return rates[Math.floor(rates.length / 4)]!;
}

/** While it had something to do: an engine worker takes one bucket after the other. Null for too few tensors. */
function tensorMilliseconds(reload: readonly number[], tensorStarts: Uint32Array): number | null {
  let [tensors, busy, before] = [0, 0, Number.NEGATIVE_INFINITY];
  for (let at = 0; at < reload.length; at += 3) {
    const [bucket, startedAt, endedAt] = [reload[at]!, reload[at + 1]!, reload[at + 2]!];
    tensors += tensorStarts[bucket + 1]! - tensorStarts[bucket]!;
    busy += Math.max(0, endedAt - Math.max(startedAt, before));
    before = endedAt;
  }
  return tensors < leastTensors ? null : busy / tensors;
}
