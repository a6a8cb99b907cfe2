import { type Cut, type Cuts, cutAt, isKept, partBytes, WHOLE } from '../checkpoint/cuts.ts';
import type { Manifest } from '../checkpoint/manifest.ts';

/** The columns of entries that are in the order of `rows`, in the order of a manifest's rows. */
export function inManifestRows({ dims, starts, lengths }: Cuts, rows: Uint32Array): Cuts {
  const ordered = {
    dims: new Uint8Array(rows.length),
    starts: new Uint32Array(rows.length),
    lengths: new Uint32Array(rows.length),
  };
  for (const [entry, row] of rows.entries()) {
    ordered.dims[row] = dims[entry]!;
    ordered.starts[row] = starts[entry]!;
    ordered.lengths[row] = lengths[entry]!;
  }
  return ordered;
}

/** A manifest's columns that decide about parts. */
type Table = Pick<Manifest, 'dtypes' | 'shapeStarts' | 'dimensions' | 'bytes'>;

/**
 * What each rank of an instance is sent, for what each of their workers keeps: one entry for each row of the manifest. A
 * tensor is cut only where the different parts that are kept of it are disjoint and make it up, so that digests of the parts
 * add up to that of the tensor; otherwise all who keep something of it get the whole. What nobody keeps the first rank gets
 * whole: a part that does not arrive proves nothing.
 */
export function sentParts(manifest: Table, kept: readonly Cuts[]): Cuts[] {
  const sent = kept.map(({ dims, starts, lengths }) => {
    return { dims: dims.slice(), starts: starts.slice(), lengths: lengths.slice() };
  });
  const alike = new EarlierAlike(manifest, kept);
  const holders: number[] = [];
  for (let row = 0; row < manifest.bytes.length; row += 1) {
    const earlier = alike.of(row);
    if (earlier !== null) {
      for (const cuts of sent)
        setEntry(cuts, row, cuts.dims[earlier]!, cuts.starts[earlier]!, cuts.lengths[earlier]!);
      continue;
    }
    holders.length = 0;
    for (let member = 0; member < kept.length; member += 1)
      if (isKept(kept[member]!, row)) holders.push(member);
    if (holders.length === 0) setEntry(sent[0]!, row, WHOLE, 0, 1);
    else if (!areComplete(manifest, row, kept, holders))
      for (const member of holders) setEntry(sent[member]!, row, WHOLE, 0, 1);
  }
  return sent;
}

function setEntry(
  { dims, starts, lengths }: Cuts,
  row: number,
  dim: number,
  start: number,
  length: number,
): void {
  dims[row] = dim;
  starts[row] = start;
  lengths[row] = length;
}

/** Finds rows that are decided already: of most shapes that a model has it has thousands, which are divided alike. */
class EarlierAlike {
  readonly #manifest: Table;
  readonly #kept: readonly Cuts[];
  /** The last row of about a shape. */
  readonly #last = new Map<number, number>();

  constructor(manifest: Table, kept: readonly Cuts[]) {
    this.#manifest = manifest;
    this.#kept = kept;
  }

  /** An earlier row of the same dtype and shape, of which every member keeps the same; null if none is found. */
  of(row: number): number | null {
    const { bytes, shapeStarts, dimensions } = this.#manifest;
    const key = bytes[row]! * 31 + (dimensions[shapeStarts[row]!] ?? 0);
    const earlier = this.#last.get(key);
    this.#last.set(key, row);
    return earlier !== undefined && this.#areAlike(earlier, row) ? earlier : null;
  }

  #areAlike(one: number, other: number): boolean {
    const { dtypes, shapeStarts, dimensions } = this.#manifest;
    const [first, second] = [shapeStarts[one]!, shapeStarts[other]!];
    const rank = shapeStarts[one + 1]! - first;
    if (dtypes[one] !== dtypes[other] || shapeStarts[other + 1]! - second !== rank) return false;
    for (let axis = 0; axis < rank; axis += 1)
      if (dimensions[first + axis] !== dimensions[second + axis]) return false;
    for (const { dims, starts, lengths } of this.#kept)
      if (dims[one] !== dims[other] || starts[one] !== starts[other] || lengths[one] !== lengths[other])
        return false;
    return true;
  }
}

/** Part of a tensor. */
export interface Gap extends Cut {
  readonly row: number;
}

/**
 * The first tensor of which workers keep some, and together not all, with a part that none of them does; null if there is
 * none. Loaders take what belongs to a worker out of a tensor by its place, and the rest of one that is too large is nobody's.
 */
export function firstGap(manifest: Table, kept: readonly Cuts[]): Gap | null {
  const alike = new EarlierAlike(manifest, kept);
  for (let row = 0; row < manifest.bytes.length; row += 1) {
    if (alike.of(row) !== null) continue;
    const cuts: Cut[] = [];
    let isWhole = false;
    for (const one of kept) {
      if (!isKept(one, row)) continue;
      const cut = cutAt(one, row);
      if (cut === null) isWhole = true;
      else cuts.push(cut);
    }
    const gap = isWhole || cuts.length === 0 ? null : gapAmong(cuts, sizesOf(manifest, row));
    if (gap !== null) return { row, ...gap };
  }
  return null;
}

function sizesOf({ shapeStarts, dimensions }: Table, row: number): Float64Array {
  return dimensions.subarray(shapeStarts[row]!, shapeStarts[row + 1]!);
}

/** Null too for parts along different dimensions: each of them has something of every index of the others. */
function gapAmong(cuts: Cut[], sizes: Float64Array): Cut | null {
  const [{ dim }] = cuts as [Cut];
  if (cuts.some((cut) => cut.dim !== dim)) return null;
  cuts.sort((one, other) => one.start - other.start);
  let end = 0;
  for (const { start, length } of cuts) {
    if (start > end) return { dim, start: end, length: start - end };
    end = Math.max(end, start + length);
  }
  return end < sizes[dim]! ? { dim, start: end, length: sizes[dim]! - end } : null;
}

/** Whether the parts of a row that some of the members keep are disjoint, and leave nothing out. */
function areComplete(
  manifest: Table,
  row: number,
  kept: readonly Cuts[],
  holders: readonly number[],
): boolean {
  const cuts: Cut[] = [];
  for (const member of holders) {
    const cut = cutAt(kept[member]!, row);
    if (cut === null) return false;
    if (cuts.some((other) => isSame(cut, other))) continue;
    if (partBytes(manifest, row, cut) === null) return false;
    cuts.push(cut);
  }
  const [{ dim }] = cuts as [Cut];
  cuts.sort((one, other) => one.start - other.start);
  let end = 0;
  for (const cut of cuts) {
    if (cut.dim !== dim || cut.start !== end) return false;
    end += cut.length;
  }
  // One part that is all of it is as well sent as the whole.
  return cuts.length > 1 && end === manifest.dimensions[manifest.shapeStarts[row]! + dim]!;
}

function isSame(one: Cut, other: Cut): boolean {
  return one.dim === other.dim && one.start === other.start && one.length === other.length;
}

/** Bytes that are sent of a row; 0 where it is not. */
export function sentBytes({ bytes, shapeStarts, dimensions }: Table, row: number, sent: Cuts): number {
  const dim = sent.dims[row]!;
  if (dim === WHOLE) return bytes[row]!;
  const length = sent.lengths[row]!;
  return length === 0 ? 0 : (bytes[row]! / dimensions[shapeStarts[row]! + dim]!) * length;
}
