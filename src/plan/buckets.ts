import { createHash } from 'node:crypto';
import { layoutDigest, type Manifest } from '../checkpoint/manifest.ts';
import { placementOrder } from '../checkpoint/manifest-rows.ts';
import { quoted } from '../checkpoint/printable.ts';
import { CheckpointError } from '../errors.ts';
import { alignUp } from './alignment.ts';
import { contiguousShares, fewestShares } from './contiguous-shares.ts';
import { chooseMode, type MemoryNeeds, type ModeChoice } from './memory-budget.ts';
import type { Plan, PlanRank } from './plan.ts';
import { assertPlan } from './plan-invariants.ts';

export type { Plan, PlanRank } from './plan.ts';

export interface PlanInput {
  readonly manifest: Manifest;
  /** `layoutDigest(manifest)`, when it is known already. */
  readonly layout?: string;
  readonly ranks: readonly PlanRank[];
  /** Part of the free device memory that an update may take, in (0, 1]. */
  readonly fraction: number;
  readonly bucketBytes: number;
  /** Every rank feeds what it loaded, even or not: parts may still be arriving, and only that rank knows which. */
  readonly ownersAreLoaders?: boolean;
}

/** Whole tensors that move as one unit; `rows` and `offsets` go together. */
interface Bucket {
  readonly rows: readonly number[];
  readonly offsets: readonly number[];
  readonly bytes: number;
}

/**
 * Plans one update. Adjacent tensors of a segment are packed together, so that a bucket is uploaded in few long
 * copies. Any rank of a host can feed what the host's segments hold, but has to pin what it feeds: each rank gets the
 * segments that it loaded where that is even to within one bucket, otherwise a contiguous run, even by bytes. Buckets
 * then go round-robin over their owners, so that uploads of several owners run at once.
 *
 * Pure and deterministic. Throws a MemoryError (see {@link chooseMode}), or a CheckpointError that names a tensor
 * which lies on a host where no rank takes part.
 */
export function planUpdate(input: PlanInput): Plan {
  const choice = chooseMode(memoryNeeds(input.manifest), input);
  const ranks = Uint32Array.from(input.ranks, ({ rank }) => rank).sort();
  const queues = new Map<number, Bucket[]>();
  const ranksOfHost = groupRanks(input.ranks);
  for (const [host, rows] of rowsByHost(input.manifest, ranksOfHost)) {
    const buckets = packBuckets(input.manifest, rows, choice);
    assignOwners(buckets, input, ranksOfHost.get(host)!, queues);
  }
  const columns = toColumns(roundRobin(queues));
  const layout = input.layout ?? layoutDigest(input.manifest);
  const { mode, slots, slotBytes } = choice;
  const facts = { layout, mode, slots, slotBytes, ranks, ...columns };
  const plan = { digest: digestOf(facts), ...facts };
  assertPlan(plan, input.manifest, input.ranks);
  return plan;
}

/** The device memory that a checkpoint needs. */
export function memoryNeeds(manifest: Manifest): MemoryNeeds {
  let totalBytes = 0;
  let largest = 0;
  for (const [row, bytes] of manifest.bytes.entries()) {
    totalBytes += alignUp(bytes);
    if (bytes > manifest.bytes[largest]!) largest = row;
  }
  return {
    totalBytes,
    largestTensor: { name: manifest.names[largest] ?? '', bytes: manifest.bytes[largest] ?? 0 },
  };
}

/** Ascending ranks of each host. */
function groupRanks(ranks: readonly PlanRank[]): Map<string, number[]> {
  const ranksOfHost = new Map<string, number[]>();
  for (const { rank, host } of [...ranks].sort((a, b) => a.rank - b.rank)) {
    const group = ranksOfHost.get(host);
    if (group === undefined) ranksOfHost.set(host, [rank]);
    else group.push(rank);
  }
  return ranksOfHost;
}

/** The rows of each host, in the order in which they lie in its segments. */
function rowsByHost(manifest: Manifest, ranksOfHost: ReadonlyMap<string, unknown>): Map<string, number[]> {
  const { segments, segmentOf, names } = manifest;
  const order = placementOrder(manifest);
  const rowsOfHost = new Map<string, number[]>();
  for (let position = 0; position < names.length; position += 1) {
    const row = order === null ? position : order[position]!;
    const { host, path } = segments[segmentOf[row]!]!;
    const rows = rowsOfHost.get(host);
    if (rows !== undefined) {
      rows.push(row);
      continue;
    }
    if (!ranksOfHost.has(host)) {
      throw new CheckpointError(
        `tensor ${quoted(names[row]!)} lies in ${quoted(path)} on host ${quoted(host)}, where no rank takes part in the update`,
      );
    }
    rowsOfHost.set(host, [row]);
  }
  return rowsOfHost;
}

function packBuckets(manifest: Manifest, rows: readonly number[], { bucketBytes }: ModeChoice): Bucket[] {
  return runsOf(manifest, rows, bucketBytes).flatMap((run) => cutRun(manifest, run, bucketBytes));
}

/** Adjacent tensors that one rank loaded; a tensor larger than the limit is alone but for empty ones. */
function runsOf(manifest: Manifest, rows: readonly number[], limit: number): number[][] {
  const isLarge = (row: number) => alignUp(manifest.bytes[row]!) > limit;
  const runs: number[][] = [[]];
  /** The last tensor with bytes: an empty one never begins or ends a run. */
  let last: number | null = null;
  for (const row of rows) {
    if (manifest.bytes[row]! > 0) {
      const isOfOtherRank = last !== null && loaderOf(manifest, row) !== loaderOf(manifest, last);
      if (last !== null && (isOfOtherRank || isLarge(row) || isLarge(last))) runs.push([]);
      last = row;
    }
    runs.at(-1)!.push(row);
  }
  return runs;
}

/**
 * As few buckets as the limit allows, of about equal size: a short last bucket would cost the time that longer ones
 * gain.
 */
function cutRun(manifest: Manifest, rows: readonly number[], limit: number): Bucket[] {
  const weights = new Float64Array(rows.length);
  for (const [index, row] of rows.entries()) weights[index] = alignUp(manifest.bytes[row]!);
  const starts = fewestShares(weights, limit);
  return Array.from({ length: starts.length - 1 }, (_, bucket) =>
    bucketOf(manifest, rows.slice(starts[bucket]!, starts[bucket + 1]!)),
  );
}

function bucketOf(manifest: Manifest, rows: readonly number[]): Bucket {
  let bytes = 0;
  const offsets = rows.map((row) => {
    const offset = alignUp(bytes);
    if (manifest.bytes[row]! > 0) bytes = offset + manifest.bytes[row]!;
    return offset;
  });
  return { rows, offsets, bytes };
}

function loaderOf({ segments, segmentOf }: Manifest, row: number): number {
  return segments[segmentOf[row]!]!.rank;
}

function assignOwners(
  buckets: readonly Bucket[],
  { manifest, ownersAreLoaders = false }: PlanInput,
  ranks: readonly number[],
  queues: Map<number, Bucket[]>,
): void {
  const { shares, unowned } = loadedShares(buckets, manifest, ranks);
  if (!ownersAreLoaders && (unowned.length > 0 || !areEven(shares))) {
    shareOut(buckets, ranks, queues);
    return;
  }
  shareOut(unowned, ranks, queues);
  for (const [rank, share] of shares) queues.get(rank)!.push(...share);
}

/** A contiguous run for each rank, even by bytes. */
function shareOut(buckets: readonly Bucket[], ranks: readonly number[], queues: Map<number, Bucket[]>): void {
  const starts = contiguousShares(
    Float64Array.from(buckets, ({ bytes }) => bytes),
    ranks.length,
  );
  for (const [index, rank] of ranks.entries()) {
    queues.set(rank, buckets.slice(starts[index]!, starts[index + 1]!));
  }
}

/** What each rank loaded, and what none of these ranks did. */
function loadedShares(buckets: readonly Bucket[], manifest: Manifest, ranks: readonly number[]) {
  const shares = new Map(ranks.map((rank) => [rank, [] as Bucket[]]));
  const unowned: Bucket[] = [];
  for (const bucket of buckets) (shares.get(loaderOf(manifest, bucket.rows[0]!)) ?? unowned).push(bucket);
  return { shares, unowned };
}

/** To within one bucket. */
function areEven(shares: ReadonlyMap<number, readonly Bucket[]>): boolean {
  const sums = [...shares.values()].map((share) => share.reduce((sum, { bytes }) => sum + bytes, 0));
  const total = sums.reduce((sum, bytes) => sum + bytes, 0);
  let largest = 0;
  for (const share of shares.values()) for (const { bytes } of share) largest = Math.max(largest, bytes);
  return Math.max(...sums) <= total / shares.size + largest;
}

interface OwnedBucket extends Bucket {
  readonly owner: number;
}

/** First the first bucket of every owner, then the second of every owner that has one, and so on. */
function roundRobin(queues: ReadonlyMap<number, readonly Bucket[]>): OwnedBucket[] {
  const owners = [...queues.keys()].sort((a, b) => a - b);
  const rounds = Math.max(0, ...owners.map((owner) => queues.get(owner)!.length));
  const ordered: OwnedBucket[] = [];
  for (let round = 0; round < rounds; round += 1) {
    for (const owner of owners) {
      const bucket = queues.get(owner)![round];
      if (bucket !== undefined) ordered.push({ ...bucket, owner });
    }
  }
  return ordered;
}

function toColumns(buckets: readonly OwnedBucket[]) {
  const tensorStarts = new Uint32Array(buckets.length + 1);
  for (const [index, { rows }] of buckets.entries())
    tensorStarts[index + 1] = tensorStarts[index]! + rows.length;
  const tensorOrder = new Uint32Array(tensorStarts.at(-1)!);
  const tensorOffsets = new Float64Array(tensorStarts.at(-1)!);
  for (const [index, { rows, offsets }] of buckets.entries()) {
    tensorOrder.set(rows, tensorStarts[index]!);
    tensorOffsets.set(offsets, tensorStarts[index]!);
  }
  return {
    owners: Uint32Array.from(buckets, ({ owner }) => owner),
    tensorStarts,
    tensorOrder,
    tensorOffsets,
    bucketBytes: Float64Array.from(buckets, ({ bytes }) => bytes),
  };
}

function digestOf(plan: Omit<Plan, 'digest'>): string {
  const { layout, mode, slots, slotBytes, ranks, owners } = plan;
  const { tensorStarts, tensorOrder, tensorOffsets, bucketBytes } = plan;
  const counts = [ranks.length, owners.length, tensorOrder.length];
  const hash = createHash('sha256').update(
    JSON.stringify(['weightcast plan 2', layout, mode, slots, slotBytes, ...counts]),
  );
  for (const column of [ranks, owners, tensorStarts, tensorOrder, tensorOffsets, bucketBytes])
    hash.update(column);
  return hash.digest('hex');
}
