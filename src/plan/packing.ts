import type { Manifest } from '../checkpoint/manifest.ts';
import { alignUp } from './alignment.ts';
import { fewestShares } from './contiguous-shares.ts';
import { type FusedUnits, isSameGatedProjection } from './fused-tensors.ts';

/** What packing looks at in a manifest. */
type Table = Pick<Manifest, 'names' | 'bytes' | 'segmentOf' | 'offsets'>;

/** Whole tensors that move as one unit; `rows` and `offsets` go together. */
export interface Bucket {
  readonly rows: readonly number[];
  readonly offsets: readonly number[];
  readonly bytes: number;
}

/** Rows that stay together: items `starts[i] … starts[i + 1]` of `order`, of `weights[i]` aligned bytes. */
interface Items {
  readonly order: readonly number[];
  readonly starts: readonly number[];
  readonly weights: readonly number[];
}

/**
 * Packs rows into buckets, in their order. Of fused tensors either all or none are among `rows`: they share a bucket,
 * whatever lies between them. An item larger than the limit is alone but for tensors without bytes.
 */
export function packRows(
  manifest: Table,
  { unitOf, units }: FusedUnits,
  rows: readonly number[],
  limit: number,
): Bucket[] {
  const items = itemsOf(manifest, { unitOf, units }, rows, limit);
  return runsOf(items, limit).flatMap(([start, end]) => cutRun(manifest, items, start, end, limit));
}

function itemsOf(
  { names, bytes, segmentOf, offsets }: Table,
  { unitOf, units }: FusedUnits,
  rows: readonly number[],
  limit: number,
): Items {
  const order: number[] = [];
  const starts: number[] = [];
  const weights: number[] = [];
  const packed = new Set<number>();
  for (const row of rows) {
    const unit = unitOf[row]!;
    if (unit < 0) {
      const weight = alignUp(bytes[row]!);
      const before = order.at(-1);
      const joined = (weights.at(-1) ?? 0) + weight;
      if (before !== undefined && joined <= limit && isSameGatedProjection(names[before]!, names[row]!)) {
        weights[weights.length - 1] = joined;
      } else {
        starts.push(order.length);
        weights.push(weight);
      }
      order.push(row);
    } else if (!packed.has(unit)) {
      packed.add(unit);
      starts.push(order.length);
      weights.push(units[unit]!.reduce((sum, member) => sum + alignUp(bytes[member]!), 0));
      const isBefore = (a: number, b: number) => segmentOf[a]! - segmentOf[b]! || offsets[a]! - offsets[b]!;
      order.push(...[...units[unit]!].sort(isBefore));
    }
  }
  starts.push(order.length);
  return { order, starts, weights };
}

/** Adjacent items between those that are larger than the limit: first, and one after the last. */
function runsOf({ weights }: Items, limit: number): [start: number, end: number][] {
  const runs: [number, number][] = [];
  let start = 0;
  /** The last item with bytes: an empty one never begins or ends a run. */
  let last = 0;
  for (let item = 0; item < weights.length; item += 1) {
    const weight = weights[item]!;
    if (weight === 0) continue;
    if (last > 0 && (weight > limit || last > limit)) {
      runs.push([start, item]);
      start = item;
    }
    last = weight;
  }
  if (start < weights.length) runs.push([start, weights.length]);
  return runs;
}

/**
 * As few buckets as the limit allows, of about equal size: a short last bucket would cost the time that longer ones
 * gain.
 */
function cutRun(
  manifest: Table,
  { order, starts, weights }: Items,
  start: number,
  end: number,
  limit: number,
): Bucket[] {
  const cuts = fewestShares(new Float64Array(weights.slice(start, end)), limit);
  return Array.from({ length: cuts.length - 1 }, (_, bucket) =>
    bucketOf(manifest, order.slice(starts[start + cuts[bucket]!]!, starts[start + cuts[bucket + 1]!]!)),
  );
}

function bucketOf(manifest: Table, rows: readonly number[]): Bucket {
  let bytes = 0;
  const offsets = rows.map((row) => {
    const offset = alignUp(bytes);
    if (manifest.bytes[row]! > 0) bytes = offset + manifest.bytes[row]!;
    return offset;
  });
  return { rows, offsets, bytes };
}
