import assert from 'node:assert/strict';
import { isOnDevice, segmentFile } from '../checkpoint/file-identity.ts';
import { layoutDigests, type Manifest } from '../checkpoint/manifest.ts';
import { placementOrder } from '../checkpoint/manifest-rows.ts';
import { quoted } from '../checkpoint/printable.ts';
import { CheckpointError } from '../errors.ts';
import { alignUp } from './alignment.ts';
import { type FusedModules, type FusedUnits, fusedUnits } from './fused-tensors.ts';
import { byLayer, type Direction, directionsOf, layerKeys } from './layer-order.ts';
import { chooseMode, LEAST_BUCKET_BYTES, type MemoryNeeds, type ModeChoice } from './memory-budget.ts';
import {
  type Feed,
  fedBy,
  keepWithLoaders,
  type OwnedBuckets,
  shareByLoaders,
  shareOut,
  takeTurns,
} from './owners.ts';
import { packRows } from './packing.ts';
import type { Plan, PlanRank } from './plan.ts';
import { planDigest } from './plan-digest.ts';
import { assertPlan } from './plan-invariants.ts';
import { noRoom, rankWithoutRoom, type WaitingByShare, waitingOfRanks } from './waiting-layers.ts';

export type { Plan, PlanRank } from './plan.ts';

export interface PlanInput {
  readonly manifest: Manifest;
  /** The lasting one of `layoutDigests(manifest)`, when it is known already. */
  readonly layout?: string;
  readonly ranks: readonly PlanRank[];
  /** Part of the free device memory that an update may take, in (0, 1]. */
  readonly fraction: number;
  readonly bucketBytes: number;
  /** Modules that a model fuses within one call, beside the known ones. */
  readonly fused?: readonly FusedModules[];
  /** `fusedUnits(manifest, fused)`, when they are known already. */
  readonly units?: FusedUnits;
  /**
   * Paths of segments that ranks still receive. If given, every rank feeds what it loaded, even or not: only the
   * receiving rank knows what has arrived.
   */
  readonly arriving?: ReadonlySet<string>;
}

/** A plan, and what it was chosen for. */
export interface PlannedUpdate {
  readonly plan: Plan;
  readonly needs: MemoryNeeds;
  readonly choice: ModeChoice;
  readonly waiting: WaitingByShare;
}

/**
 * Plans one update. Tensors are packed layer by layer (layer-order.ts), and those that a model fuses share a bucket (packing.ts). Any
 * rank of a host can feed what the host's segments hold, but has to pin what it feeds (owners.ts); owners take turns,
 * so that uploads of several owners run at once.
 *
 * Pure and deterministic. Throws a MemoryError (see {@link chooseMode}), or a CheckpointError that names a tensor
 * which lies on a host where no rank takes part, or fused tensors that lie on different hosts.
 */
export function planUpdate(input: PlanInput): Plan {
  return planWithNeeds(input).plan;
}

/**
 * {@link planUpdate}, for those who decide later whether the plan still serves. Where engine workers keep tensors until layers
 * are whole, buckets are as large as that leaves room for: smaller ones leave more waiting, but less than they free.
 */
export function planWithNeeds(input: PlanInput): PlannedUpdate {
  const { manifest, ranks, fraction, fused = [] } = input;
  const { units = fusedUnits(manifest, fused) } = input;
  for (let { bucketBytes } = input; ; ) {
    const planned = planBuckets({ ...input, bucketBytes }, units);
    const rank = rankWithoutRoom(planned.choice, planned.waiting, ranks, fraction);
    if (rank === null) return planned;
    if (bucketBytes <= LEAST_BUCKET_BYTES)
      throw noRoom(planned.choice, planned.waiting.get(rank.waiting!.experts)!, rank, fraction);
    bucketBytes = Math.max(
      Math.ceil(Math.min(bucketBytes, planned.choice.bucketBytes) / 2),
      LEAST_BUCKET_BYTES,
    );
  }
}

function planBuckets(input: PlanInput, units: FusedUnits): PlannedUpdate {
  const { manifest } = input;
  const needs = memoryNeeds(manifest, units);
  const choice = chooseMode(needs, input);
  const ranks = Uint32Array.from(input.ranks, ({ rank }) => rank).sort();
  const columns = toColumns(takeTurns(planFeeds(input, units, choice)));
  const layout = input.layout ?? layoutDigests(manifest).lasting;
  const { mode, slots, slotBytes, largeSlotBytes } = choice;
  const facts = { layout, mode, slots, slotBytes, largeSlotBytes, ranks, ...columns, cuts: null };
  const plan = { digest: planDigest(facts), ...facts };
  assertPlan(plan, manifest, input.ranks, units);
  return { plan, needs, choice, waiting: waitingOfRanks(plan, manifest, input.ranks) };
}

function planFeeds({ manifest, ranks, arriving }: PlanInput, units: FusedUnits, choice: ModeChoice): Feed[] {
  const keys = layerKeys(manifest.names);
  const pack = (rows: readonly number[], direction?: Direction) =>
    packRows(manifest, units, byLayer(keys, rows, direction), choice.bucketBytes);
  const ranksOfHost = groupRanks(ranks);
  const homes = homesOfUnits(manifest, units, arriving);
  checkReach(manifest, ranks);
  const isBound = manifest.segments.some(({ path }) => isOnDevice(path));
  return [...rowsByLoader(manifest, ranksOfHost, units, homes)].flatMap(([host, rowsOf]) => {
    const members = ranksOfHost.get(host)!;
    if (members.length === 1) return [fedBy(members[0]!, pack([...rowsOf.values()].flat()))];
    const forward = () => new Map([...rowsOf].map(([loader, rows]) => [loader, pack(rows)]));
    if (arriving !== undefined || isBound) return keepWithLoaders(forward(), members);
    const directions = directionsOf(keys, [...rowsOf.values()]);
    const packed = new Map([...rowsOf].map(([loader, rows], part) => [loader, pack(rows, directions[part])]));
    return shareByLoaders(packed, members) ?? shareOut([...forward().values()].flat(), members);
  });
}

/** The device memory that a checkpoint needs. */
export function memoryNeeds(manifest: Manifest, { unitOf, units }: FusedUnits): MemoryNeeds {
  const countOf = new Map<number, number>();
  let totalBytes = 0;
  let most = 0;
  let largest: readonly number[] = [];
  const consider = (rows: readonly number[], bytes: number) => {
    totalBytes += bytes;
    if (bytes === 0) return;
    countOf.set(bytes, (countOf.get(bytes) ?? 0) + 1);
    if (bytes <= most) return;
    most = bytes;
    largest = rows;
  };
  for (const [row, bytes] of manifest.bytes.entries()) if (unitOf[row]! < 0) consider([row], alignUp(bytes));
  for (const rows of units) {
    consider(
      rows,
      rows.reduce((sum, row) => sum + alignUp(manifest.bytes[row]!), 0),
    );
  }
  const sizes = [...countOf]
    .map(([bytes, count]) => ({ bytes, count }))
    .sort((one, other) => other.bytes - one.bytes);
  // One tensor is said to have its own bytes, not the aligned ones.
  const bytes = largest.length === 1 ? manifest.bytes[largest[0]!]! : most;
  return { totalBytes, sizes, largest: { tensors: largest.map((row) => manifest.names[row]!), bytes } };
}

/** What is in the memory of a device is fed by the rank on it. Throws a `CheckpointError` if that one takes no part. */
function checkReach({ segments }: Manifest, ranks: readonly PlanRank[]): void {
  const far = segments.find(
    ({ path, rank, host }) =>
      isOnDevice(path) && !ranks.some((one) => one.rank === rank && one.host === host),
  );
  if (far === undefined) return;
  throw new CheckpointError(
    `its tensors are in the memory of the device of rank ${far.rank}, which takes no part in this update: update the instance of rank ${far.rank} with it, or publish without on_device`,
  );
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

/**
 * The segment with whose rows each unit is fed: one that is still arriving, else the segment of its first row. Throws
 * a CheckpointError for a unit that lies on several hosts, because no rank reaches all of it.
 */
function homesOfUnits(
  { names, segments, segmentOf }: Manifest,
  { units }: FusedUnits,
  arriving: ReadonlySet<string> | undefined,
): number[] {
  return units.map((rows) => {
    const first = rows[0]!;
    const home = segmentOf[first]!;
    const far = rows.find((row) => segments[segmentOf[row]!]!.host !== segments[home]!.host);
    if (far !== undefined) {
      const hosts = [home, segmentOf[far]!].map((segment) => quoted(segments[segment]!.host));
      throw new CheckpointError(
        `tensors ${quoted(names[first]!)} and ${quoted(names[far]!)} have to reach an engine in one bucket, ` +
          `but lie on different hosts, ${hosts.join(' and ')}`,
      );
    }
    const elsewhere = rows.find((row) => {
      const other = segments[segmentOf[row]!]!;
      return (
        other.rank !== segments[home]!.rank && (isOnDevice(other.path) || isOnDevice(segments[home]!.path))
      );
    });
    if (elsewhere !== undefined)
      throw new CheckpointError(
        `tensors ${quoted(names[first]!)} and ${quoted(names[elsewhere]!)} have to reach an engine in one bucket, but are in the memory of different devices`,
      );
    if (arriving === undefined) return home;
    const receiving = rows
      .map((row) => segmentOf[row]!)
      .filter((segment) => arriving.has(segments[segment]!.path));
    const receivers = new Set(receiving.map((segment) => segments[segment]!.rank));
    assert.ok(receivers.size < 2, `one rank receives all of ${names[first]} and what is fused with it`);
    return receiving[0] ?? home;
  });
}

/** Of each host the rows that each rank loaded, in the order in which they lie in the segments. */
function rowsByLoader(
  manifest: Manifest,
  ranksOfHost: ReadonlyMap<string, unknown>,
  { unitOf }: FusedUnits,
  homes: readonly number[],
): Map<string, Map<number, number[]>> {
  const { segments, segmentOf, names } = manifest;
  const order = placementOrder(manifest);
  const rowsOfHost = new Map<string, Map<number, number[]>>();
  /** By segment. */
  const listOf: (number[] | undefined)[] = [];
  for (let position = 0; position < names.length; position += 1) {
    const row = order === null ? position : order[position]!;
    const segment = unitOf[row]! < 0 ? segmentOf[row]! : homes[unitOf[row]!]!;
    let rows = listOf[segment];
    if (rows === undefined) {
      const { host, path, rank } = segments[segment]!;
      if (!ranksOfHost.has(host)) {
        throw new CheckpointError(
          `tensor ${quoted(names[row]!)} lies in ${quoted(segmentFile(path))} on host ${quoted(host)}, where no rank takes part in the update`,
        );
      }
      const loaders = rowsOfHost.get(host) ?? new Map<number, number[]>();
      rowsOfHost.set(host, loaders);
      rows = loaders.get(rank) ?? [];
      loaders.set(rank, rows);
      listOf[segment] = rows;
    }
    rows.push(row);
  }
  return rowsOfHost;
}

function toColumns({ buckets, owners }: OwnedBuckets) {
  const tensorStarts = new Uint32Array(buckets.length + 1);
  for (let bucket = 0; bucket < buckets.length; bucket += 1)
    tensorStarts[bucket + 1] = tensorStarts[bucket]! + buckets[bucket]!.rows.length;
  const tensorOrder = new Uint32Array(tensorStarts.at(-1)!);
  const tensorOffsets = new Float64Array(tensorStarts.at(-1)!);
  for (let bucket = 0; bucket < buckets.length; bucket += 1) {
    tensorOrder.set(buckets[bucket]!.rows, tensorStarts[bucket]!);
    tensorOffsets.set(buckets[bucket]!.offsets, tensorStarts[bucket]!);
  }
  return {
    owners: Uint32Array.from(owners),
    tensorStarts,
    tensorOrder,
    tensorOffsets,
    bucketBytes: Float64Array.from(buckets, ({ bytes }) => bytes),
  };
}
