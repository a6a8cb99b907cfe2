import { contiguousShares } from './contiguous-shares.ts';
import type { Bucket } from './packing.ts';

/** Buckets in order, with the ranks that upload them; the two go together. */
export interface OwnedBuckets {
  readonly buckets: readonly Bucket[];
  readonly owners: readonly number[];
}

/** Comes in rounds of `width`: in each round every rank of the feed has one bucket. The last may be shorter. */
export interface Feed extends OwnedBuckets {
  readonly width: number;
}

/**
 * Gives the buckets of one host to its ranks. A rank has to pin every segment that it uploads from, so each loader's
 * buckets go to that rank, or to a group of ranks that take turns. Null where that isn't even to within one bucket.
 */
export function shareByLoaders(
  packed: ReadonlyMap<number, readonly Bucket[]>,
  ranks: readonly number[],
): Feed[] | null {
  const feeds = [...ranksOfLoaders(packed, ranks)].map(([loader, group]) => deal(packed.get(loader)!, group));
  return areEven(feeds, packed, ranks) ? feeds : null;
}

/** Each rank feeds what it loaded, even or not; what none of these ranks loaded is shared out. */
export function keepWithLoaders(
  packed: ReadonlyMap<number, readonly Bucket[]>,
  ranks: readonly number[],
): Feed[] {
  const unowned = [...packed].flatMap(([loader, buckets]) => (ranks.includes(loader) ? [] : buckets));
  return shareOut(unowned, ranks).map(({ buckets }, index) => {
    const rank = ranks[index]!;
    return fedBy(rank, [...buckets, ...(packed.get(rank) ?? [])]);
  });
}

/** Every rank feeds what it loaded; each of the others joins the loader that has the most bytes per rank. */
function ranksOfLoaders(
  packed: ReadonlyMap<number, readonly Bucket[]>,
  ranks: readonly number[],
): Map<number, number[]> {
  const groups = [...packed].map(([loader, buckets]) => ({
    loader,
    bytes: bytesOf(buckets),
    ranks: ranks.includes(loader) ? [loader] : [],
  }));
  const perRank = (group: (typeof groups)[number]) => group.bytes / group.ranks.length;
  for (const rank of ranks) {
    if (packed.has(rank) || groups.length === 0) continue;
    groups.reduce((most, group) => (perRank(group) > perRank(most) ? group : most)).ranks.push(rank);
  }
  return new Map(groups.map((group) => [group.loader, group.ranks]));
}

/**
 * In turns: each round gives every rank a bucket, the largest to the rank with the fewest bytes so far. So no two ranks
 * ever differ by more than one bucket. Without ranks nothing is dealt.
 */
export function deal(buckets: readonly Bucket[], ranks: readonly number[]): Feed {
  const width = ranks.length;
  if (width === 1) return fedBy(ranks[0]!, buckets);
  const loads = new Map(ranks.map((rank) => [rank, 0]));
  const owners: number[] = [];
  for (let start = 0; width > 0 && start < buckets.length; start += width) {
    const round = buckets.slice(start, start + width);
    const least = [...ranks].sort((a, b) => loads.get(a)! - loads.get(b)! || a - b);
    const largestFirst = [...round.keys()].sort((a, b) => round[b]!.bytes - round[a]!.bytes || a - b);
    const ownerOf = new Map(largestFirst.map((position, index) => [position, least[index]!]));
    for (const [position, bucket] of round.entries()) {
      const owner = ownerOf.get(position)!;
      loads.set(owner, loads.get(owner)! + bucket.bytes);
      owners.push(owner);
    }
  }
  return { width, buckets, owners };
}

/** A contiguous run for each rank, even by bytes. */
export function shareOut(buckets: readonly Bucket[], ranks: readonly number[]): Feed[] {
  const starts = contiguousShares(
    Float64Array.from(buckets, ({ bytes }) => bytes),
    ranks.length,
  );
  return ranks.map((rank, index) => fedBy(rank, buckets.slice(starts[index]!, starts[index + 1]!)));
}

/** By one rank alone. */
export function fedBy(rank: number, buckets: readonly Bucket[]): Feed {
  return { width: 1, buckets, owners: new Array<number>(buckets.length).fill(rank) };
}

/** Everything is dealt, and to within one bucket every rank has the same. */
function areEven(
  feeds: readonly Feed[],
  packed: ReadonlyMap<number, readonly Bucket[]>,
  ranks: readonly number[],
): boolean {
  if (feeds.some(({ width }) => width === 0)) return false;
  const loads = new Map(ranks.map((rank) => [rank, 0]));
  let largest = 0;
  for (const { buckets, owners } of feeds) {
    for (let bucket = 0; bucket < buckets.length; bucket += 1) {
      const { bytes } = buckets[bucket]!;
      loads.set(owners[bucket]!, loads.get(owners[bucket]!)! + bytes);
      largest = Math.max(largest, bytes);
    }
  }
  const total = [...packed.values()].reduce((sum, buckets) => sum + bytesOf(buckets), 0);
  return Math.max(...loads.values()) <= total / ranks.length + largest;
}

function bytesOf(buckets: readonly Bucket[]): number {
  return buckets.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** First the first round of every feed, then the second of every feed that has one, and so on. */
export function takeTurns(feeds: readonly Feed[]): OwnedBuckets {
  const rounds = Math.max(0, ...feeds.map(({ width, buckets }) => Math.ceil(buckets.length / width)));
  const ordered = { buckets: [] as Bucket[], owners: [] as number[] };
  for (let round = 0; round < rounds; round += 1) {
    for (const { width, buckets, owners } of feeds) {
      const end = Math.min((round + 1) * width, buckets.length);
      for (let bucket = round * width; bucket < end; bucket += 1) {
        ordered.buckets.push(buckets[bucket]!);
        ordered.owners.push(owners[bucket]!);
      }
    }
  }
  return ordered;
}
