import { bytesOfColumn } from '../checkpoint/columns.ts';
import { type Cuts, cutAt, isKept, partBytes, WHOLE } from '../checkpoint/cuts.ts';
import type { Manifest } from '../checkpoint/manifest.ts';
import { MemoryError } from '../errors.ts';
import { formatExactBytes } from '../units.ts';
import { type PlannedUpdate, planWithNeeds } from './buckets.ts';
import type { FusedUnits } from './fused-tensors.ts';
import { sentBytes } from './kept-parts.ts';
import { chooseMode, LEAST_BUCKET_BYTES } from './memory-budget.ts';
import { type Plan, type PlanRank, slotMemory } from './plan.ts';
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
  const steps = planPartsInSteps(input);
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

/** The same, for those who let others have their turn between steps: of hundreds of thousands of tensors it takes half a second. */
export function* planPartsInSteps(input: PartsPlanInput): Generator<undefined, PartsPlan> {
  const { rank, fraction } = input;
  const rows = sentRows(input);
  const manifest = sentManifest(input, rows);
  const units = unitsAmong(input.units, rows);
  const budget = Math.floor(rank.freeBytes * fraction);
  for (let { bucketBytes } = input; ; ) {
    yield;
    const ranks = [{ ...rank, waiting: null }];
    const planned = planWithNeeds({ ...input, manifest, units, ranks, bucketBytes });
    yield;
    const plan = withCuts(planned.plan, rows, input.sent);
    const scratchBytes = scratchOf(plan, input) + waitingOf(plan, input);
    const needed = slotMemory(plan) + scratchBytes;
    if (needed <= budget) return { ...planned, plan, scratchBytes };
    if (bucketBytes <= LEAST_BUCKET_BYTES) throw tooLittle(rank, needed, budget);
    bucketBytes = smallerBuckets(bucketBytes, budget / needed);
  }
}

/** Half as large, or half of that, and so on: what surely does not fit either is not planned. `within`: what part of it would fit. */
function smallerBuckets(bucketBytes: number, within: number): number {
  let next = bucketBytes;
  // Half a bucket's tensors may take as little as a third of its memory.
  do next = Math.ceil(next / 2);
  while (next > LEAST_BUCKET_BYTES && (next / bucketBytes) * (2 / 3) > within);
  return Math.max(next, LEAST_BUCKET_BYTES);
}

/**
 * The plan of another rank of the host that is sent as much of each tensor: nearly always that of all ranks which divide a
 * model evenly. Null where it is sent otherwise; `sent`: what the planned one is.
 */
export function planAlike(planned: PartsPlan, sent: Cuts, other: PartsPlanInput): PartsPlan | null {
  const { dims, lengths, starts } = other.sent;
  const isSame = sent === other.sent;
  const isAlike =
    isSame ||
    (Buffer.compare(sent.dims, dims) === 0 &&
      Buffer.compare(bytesOfColumn(sent.lengths), bytesOfColumn(lengths)) === 0);
  if (!isAlike) return null;
  const { digest: _, ...plan } = planned.plan;
  const cuts = isSame ? plan.cuts! : { ...plan.cuts!, starts: plan.tensorOrder.map((row) => starts[row]!) };
  const facts = {
    ...plan,
    ranks: Uint32Array.of(other.rank.rank),
    owners: new Uint32Array(plan.owners.length).fill(other.rank.rank),
    cuts,
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
  const names: string[] = [];
  const dtypes = new Uint8Array(rows.length);
  const bytes = new Float64Array(rows.length);
  const segmentOf = new Uint32Array(rows.length);
  const offsets = new Float64Array(rows.length);
  for (let position = 0; position < rows.length; position += 1) {
    const row = rows[position]!;
    const cut = cutAt(sent, row);
    names.push(manifest.names[row]!);
    dtypes[position] = manifest.dtypes[row]!;
    bytes[position] = sentBytes(manifest, row, sent);
    segmentOf[position] = manifest.segmentOf[row]!;
    offsets[position] = manifest.offsets[row]! + (cut === null ? 0 : partBytes(manifest, row, cut)!.offset);
  }
  return { ...manifest, names, dtypes, bytes, segmentOf, offsets };
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
  const dims = new Uint8Array(tensorOrder.length);
  for (let entry = 0; entry < dims.length; entry += 1) dims[entry] = sent.dims[tensorOrder[entry]!]!;
  const cuts = {
    dims,
    starts: tensorOrder.map((row) => sent.starts[row]!),
    lengths: tensorOrder.map((row) => sent.lengths[row]!),
  };
  const facts = { ...plan, tensorOrder, cuts };
  return { digest: planDigest(facts), ...facts };
}

function scratchOf(
  { tensorStarts, tensorOrder, cuts }: Plan,
  { manifest: { bytes } }: PartsPlanInput,
): number {
  let most = 0;
  for (let bucket = 0; bucket < tensorStarts.length - 1; bucket += 1) {
    let whole = 0;
    for (let entry = tensorStarts[bucket]!; entry < tensorStarts[bucket + 1]!; entry += 1)
      if (cuts!.dims[entry] !== WHOLE) whole += bytes[tensorOrder[entry]!]!;
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
