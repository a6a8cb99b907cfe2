import { contiguousShares } from './contiguous-shares.ts';
import type { Bucket } from './packing.ts';

export interface OwnedBucket extends Bucket {
  /** The rank that uploads it. */
  readonly owner: number;
}

/** Buckets in order, in rounds of `width`: in each round every rank of the feed has one. The last may be shorter. */
export interface Feed {
  readonly width: number;
  readonly buckets: readonly OwnedBucket[];
}

/**
 * Gives the buckets of one host to its ranks. A rank has to pin every segment that it uploads from, so each loader's
 * buckets go to that rank, or to a group of ranks that take turns; where that isn't even to within one bucket, each
 * rank gets a contiguous run.
 */
export function shareOut(packed: ReadonlyMap<number, readonly Bucket[]>, ranks: readonly number[]): Feed[] {
  const feeds = [...ranksOfLoaders(packed, ranks)].map(([loader, group]) => deal(packed.get(loader)!, group));
  return areEven(feeds, packed, ranks) ? feeds : contiguousFeeds([...packed.values()].flat(), ranks);
}

/** Each rank feeds what it loaded, even or not; what none of these ranks loaded is shared out. */
export function keepWithLoaders(
  packed: ReadonlyMap<number, readonly Bucket[]>,
  ranks: readonly number[],
): Feed[] {
  const unowned = [...packed].flatMap(([loader, buckets]) => (ranks.includes(loader) ? [] : buckets));
  return contiguousFeeds(unowned, ranks).map(({ buckets }, index) => {
    const rank = ranks[index]!;
    return { width: 1, buckets: [...buckets, ...ownedBy(packed.get(rank) ?? [], rank)] };
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
function deal(buckets: readonly Bucket[], ranks: readonly number[]): Feed {
  const width = ranks.length;
  if (width === 1) return { width, buckets: ownedBy(buckets, ranks[0]!) };
  const loads = new Map(ranks.map((rank) => [rank, 0]));
  const dealt: OwnedBucket[] = [];
  for (let start = 0; width > 0 && start < buckets.length; start += width) {
    const round = buckets.slice(start, start + width);
    const least = [...ranks].sort((a, b) => loads.get(a)! - loads.get(b)! || a - b);
    const largestFirst = [...round.keys()].sort((a, b) => round[b]!.bytes - round[a]!.bytes || a - b);
    const ownerOf = new Map(largestFirst.map((position, index) => [position, least[index]!]));
    for (const [position, bucket] of round.entries()) {
      const owner = ownerOf.get(position)!;
      loads.set(owner, loads.get(owner)! + bucket.bytes);
      dealt.push({ ...bucket, owner });
    }
  }
  return { width, buckets: dealt };
}

function contiguousFeeds(buckets: readonly Bucket[], ranks: readonly number[]): Feed[] {
  const starts = contiguousShares(
    Float64Array.from(buckets, ({ bytes }) => bytes),
    ranks.length,
  );
  return ranks.map((rank, index) => {
    const share = buckets.slice(starts[index]!, starts[index + 1]!);
    return { width: 1, buckets: ownedBy(share, rank) };
  });
}

function ownedBy(buckets: readonly Bucket[], owner: number): OwnedBucket[] {
  return buckets.map((bucket) => ({ ...bucket, owner }));
}

/** Everything is dealt, and to within one bucket every rank has the same. */
function areEven(
  feeds: readonly Feed[],
  packed: ReadonlyMap<number, readonly Bucket[]>,
  ranks: readonly number[],
): boolean {
  const loads = new Map(ranks.map((rank) => [rank, 0]));
  let [total, largest, dealt] = [0, 0, 0];
  for (const { buckets } of feeds) {
    dealt += buckets.length;
    for (const { owner, bytes } of buckets) {
      loads.set(owner, loads.get(owner)! + bytes);
      total += bytes;
      largest = Math.max(largest, bytes);
    }
  }
  const count = [...packed.values()].reduce((sum, buckets) => sum + buckets.length, 0);
  return dealt === count && Math.max(...loads.values()) <= total / ranks.length + largest;
}

function bytesOf(buckets: readonly Bucket[]): number {
  return buckets.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** First the first round of every feed, then the second of every feed that has one, and so on. */
export function takeTurns(feeds: readonly Feed[]): OwnedBucket[] {
  const rounds = Math.max(0, ...feeds.map(({ width, buckets }) => Math.ceil(buckets.length / width)));
  const ordered: OwnedBucket[] = [];
  for (let round = 0; round < rounds; round += 1) {
    for (const { width, buckets } of feeds) {
      const end = Math.min((round + 1) * width, buckets.length);
      for (let bucket = round * width; bucket < end; bucket += 1) ordered.push(buckets[bucket]!);
    }
  }
  return ordered;
}
