import { bytesOfColumn } from '../checkpoint/columns.ts';
import { type Cuts, cutAt, isKept, partBytes, WHOLE } from '../checkpoint/cuts.ts';
import type { Manifest } from '../checkpoint/manifest.ts';
import { quoted } from '../checkpoint/printable.ts';
import { MemoryError } from '../errors.ts';
import { formatExactBytes } from '../units.ts';
import { type PlannedUpdate, planWithNeeds } from './buckets.ts';
import type { FusedUnits } from './fused-tensors.ts';
import { sentBytes } from './kept-parts.ts';
import { chooseMode, LEAST_BUCKET_BYTES } from './memory-budget.ts';
import { bucketTensors, type Plan, type PlanRank, slotMemory } from './plan.ts';
import { planDigest } from './plan-digest.ts';
import { waitingLayers } from './waiting-layers.ts';

export interface PartsPlanInput {
  readonly manifest: Manifest;
  /** The lasting one of `layoutDigests(manifest)`. */
  readonly layout: string;
  /** It gets all from its own host's memory. */
  readonly rank: PlanRank;
  /** What it is sent, by the manifest's rows. */
  readonly sent: Cuts;
  readonly units: FusedUnits;
  /** As `PlanInput`. */
  readonly fraction: number;
  readonly bucketBytes: number;
}

/** A plan for one rank, and the device memory that its engine worker takes beside the slots. */
export interface PartsPlan extends PlannedUpdate {
  /**
   * A worker lays each part into a tensor of the whole's shape, and has the model load that: those of the largest bucket
   * together, and what the model holds of earlier ones until their layers are whole.
   */
  readonly scratchBytes: number;
}

/**
 * Plans what a rank is sent, as {@link planWithNeeds} plans whole tensors. Buckets are as large as the worker's memory for one
 * of them allows. Throws a MemoryError that names the rank.
 */
export function planParts(input: PartsPlanInput): PartsPlan {
  const { rank, fraction } = input;
  const rows = sentRows(input);
  const manifest = sentManifest(input, rows);
  const units = unitsAmong(input.units, rows);
  const budget = Math.floor(rank.freeBytes * fraction);
  for (
    let { bucketBytes } = input;
    ;
    bucketBytes = Math.max(Math.ceil(bucketBytes / 2), LEAST_BUCKET_BYTES)
  ) {
    const ranks = [{ ...rank, waiting: null }];
    const planned = planWithNeeds({ ...input, manifest, units, ranks, bucketBytes });
    const plan = withCuts(planned.plan, rows, input.sent);
    const scratchBytes = scratchOf(plan, input.manifest) + waitingOf(plan, input);
    if (slotMemory(plan) + scratchBytes <= budget) return { ...planned, plan, scratchBytes };
    if (bucketBytes <= LEAST_BUCKET_BYTES) throw tooLittle(rank, slotMemory(plan) + scratchBytes, budget);
  }
}

/**
 * The plan of another rank of the host that is sent as much of each tensor: nearly always that of all ranks which divide a
 * model evenly. Null where it is sent otherwise; `sent`: what the planned one is.
 */
export function planAlike(planned: PartsPlan, sent: Cuts, other: PartsPlanInput): PartsPlan | null {
  const { dims, lengths, starts } = other.sent;
  const isAlike =
    Buffer.compare(sent.dims, dims) === 0 &&
    Buffer.compare(bytesOfColumn(sent.lengths), bytesOfColumn(lengths)) === 0;
  if (!isAlike) return null;
  const { digest: _, ...plan } = planned.plan;
  const facts = {
    ...plan,
    ranks: Uint32Array.of(other.rank.rank),
    owners: new Uint32Array(plan.owners.length).fill(other.rank.rank),
    cuts: { ...plan.cuts!, starts: plan.tensorOrder.map((row) => starts[row]!) },
  };
  const alike = { ...planned, plan: { digest: planDigest(facts), ...facts } };
  return stillFits(alike, other) ? alike : null;
}

/** Whether a plan would still be made, or nearly, for the device memory that is free now. */
export function stillFits(
  { plan, needs, choice, scratchBytes }: PartsPlan,
  { rank, fraction, bucketBytes: wanted }: Pick<PartsPlanInput, 'rank' | 'fraction' | 'bucketBytes'>,
): boolean {
  if (slotMemory(plan) + scratchBytes > Math.floor(rank.freeBytes * fraction)) return false;
  const { bucketBytes } = choice;
  const now = chooseMode(needs, { ranks: [rank], fraction, bucketBytes });
  // Buckets that were made small for want of memory need not stay so.
  const isAmple = bucketBytes < wanted && now.budget >= choice.budget * 2;
  return now.mode === choice.mode && !isAmple;
}

function sentRows({ manifest, sent }: PartsPlanInput): Uint32Array {
  const rows = new Uint32Array(manifest.names.length);
  let count = 0;
  for (let row = 0; row < rows.length; row += 1) {
    if (!isKept(sent, row)) continue;
    rows[count] = row;
    count += 1;
  }
  return rows.slice(0, count);
}

/** What is sent, as if it were a checkpoint: each part is a tensor where its first byte lies. */
function sentManifest({ manifest, sent }: PartsPlanInput, rows: Uint32Array): Manifest {
  const starts = (row: number) => {
    const cut = cutAt(sent, row);
    return manifest.offsets[row]! + (cut === null ? 0 : partBytes(manifest, row, cut)!.offset);
  };
  return {
    ...manifest,
    names: Array.from(rows, (row) => manifest.names[row]!),
    dtypes: Uint8Array.from(rows, (row) => manifest.dtypes[row]!),
    bytes: Float64Array.from(rows, (row) => sentBytes(manifest, row, sent)),
    segmentOf: Uint32Array.from(rows, (row) => manifest.segmentOf[row]!),
    offsets: Float64Array.from(rows, starts),
  };
}

/** By positions in `rows`. Of a unit of which nothing else is sent one tensor may be left: it stands alone. */
function unitsAmong({ unitOf, units }: FusedUnits, rows: Uint32Array): FusedUnits {
  const among = new Int32Array(rows.length).fill(-1);
  const members: number[][] = units.map(() => []);
  for (const [position, row] of rows.entries()) {
    if (unitOf[row]! < 0) continue;
    members[unitOf[row]!]!.push(position);
  }
  const left = members.filter(({ length }) => length > 1);
  for (const [unit, positions] of left.entries()) for (const position of positions) among[position] = unit;
  return { unitOf: among, units: left };
}

/** The plan by the rows of the whole manifest. */
function withCuts({ digest: _, ...plan }: Plan, rows: Uint32Array, sent: Cuts): Plan {
  const tensorOrder = plan.tensorOrder.map((position) => rows[position]!);
  const cuts = {
    dims: Uint8Array.from(tensorOrder, (row) => sent.dims[row]!),
    starts: tensorOrder.map((row) => sent.starts[row]!),
    lengths: tensorOrder.map((row) => sent.lengths[row]!),
  };
  const facts = { ...plan, tensorOrder, cuts };
  return { digest: planDigest(facts), ...facts };
}

function scratchOf(plan: Plan, { bytes }: Manifest): number {
  let most = 0;
  for (let bucket = 0; bucket < plan.owners.length; bucket += 1) {
    let whole = 0;
    for (const [at, row] of bucketTensors(plan, bucket).rows.entries())
      if (cutAt(plan.cuts!, plan.tensorStarts[bucket]! + at) !== null) whole += bytes[row]!;
    most = Math.max(most, whole);
  }
  return most;
}

/** All of the experts that it is sent are its own. */
function waitingOf(plan: Plan, { manifest, rank, sent }: PartsPlanInput): number {
  return rank.waiting === undefined || rank.waiting === null
    ? 0
    : waitingLayers(plan, manifest, 1, sent).bytes;
}

function tooLittle({ rank, freeBytes }: PlanRank, wanted: number, budget: number): MemoryError {
  return new MemoryError(
    `an update of rank ${rank} by parts needs ${formatExactBytes(wanted)} with what its engine worker takes for the largest ` +
      `tensors; it has ${formatExactBytes(freeBytes)} of free device memory, of which an update may take ${formatExactBytes(budget)}`,
  );
}

/** Part of a checkpoint's bytes above which uploads of each rank for itself take longer than those that ranks share. */
const mostSent = 3 / 4;

/** What a rank is sent of a checkpoint. */
export interface Share {
  readonly sent: Cuts;
  readonly bytes: number;
  /** Nothing is cut, and nothing left out. */
  readonly isAll: boolean;
  /** Those of the manifest that it has to read. */
  readonly segments: ReadonlySet<number>;
}

export function shareOf(manifest: Manifest, sent: Cuts): Share {
  const { names, segmentOf } = manifest;
  const segments = new Set<number>();
  let bytes = 0;
  for (let row = 0; row < names.length; row += 1) {
    if (!isKept(sent, row)) continue;
    bytes += sentBytes(manifest, row, sent);
    segments.add(segmentOf[row]!);
  }
  return { sent, bytes, isAll: sent.dims.every((dim) => dim === WHOLE), segments };
}

/**
 * Why an instance is not updated by parts, although each of its ranks knows what its worker keeps; null if nothing is in the
 * way. `shares` goes with `ranks`.
 */
export function whyNotParts(
  { names, bytes, segments, segmentOf }: Manifest,
  ranks: readonly Pick<PlanRank, 'rank' | 'host'>[],
  shares: readonly Share[],
): string | null {
  if (shares.every(({ isAll }) => isAll)) return 'each of its engine workers keeps all tensors whole';
  const all = bytes.reduce((sum, size) => sum + size, 0);
  for (const [member, { rank }] of ranks.entries()) {
    const own = shares[member]!.bytes;
    if (own <= all * mostSent) continue;
    return `rank ${rank} needs ${Math.round((own / all) * 100)} % of the bytes: whole tensors, which ranks broadcast to each other, come sooner`;
  }
  for (const [member, { rank, host }] of ranks.entries()) {
    const share = shares[member]!;
    for (const index of share.segments) {
      const segment = segments[index]!;
      if (segment.host === host && segment.lost !== true) continue;
      const tensor = names[segmentOf.findIndex((of, row) => of === index && isKept(share.sent, row))]!;
      return `tensor ${quoted(tensor)}, of which rank ${rank} needs a part, lies on host ${segment.host} and not on ${host}`;
    }
  }
  return null;
}
