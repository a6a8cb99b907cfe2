import { createHash, type Hash } from 'node:crypto';
import { bytesOfColumn } from './columns.ts';
import { lastingName } from './file-identity.ts';
import type { Manifest } from './manifest-table.ts';

/** What was computed of columns, for manifests that share them: versions of one layout do. */
class OfColumns<T> {
  readonly #compute: (manifest: Manifest) => T;
  readonly #columns: (manifest: Manifest) => readonly object[];
  readonly #known = new WeakMap<object, { readonly columns: readonly object[]; readonly value: T }>();

  constructor(columns: (manifest: Manifest) => readonly object[], compute: (manifest: Manifest) => T) {
    this.#columns = columns;
    this.#compute = compute;
  }

  of(manifest: Manifest): T {
    const columns = this.#columns(manifest);
    const known = this.#known.get(manifest.names);
    if (known?.columns.every((column, at) => column === columns[at])) return known.value;
    const value = this.#compute(manifest);
    this.#known.set(manifest.names, { columns, value });
    return value;
  }
}

const layoutColumns = ({ dtypes, shapeStarts, dimensions, bytes, segmentOf, offsets }: Manifest) => {
  return [dtypes, shapeStarts, dimensions, bytes, segmentOf, offsets];
};
const layoutHashes = new OfColumns(layoutColumns, (manifest) => {
  const hash = startHash('weightcast layout 1', manifest.names);
  for (const column of layoutColumns(manifest)) hash.update(bytesOfColumn(column));
  return hash;
});
const contentHashes = new OfColumns(
  ({ dtypes, shapeStarts, dimensions }) => [dtypes, shapeStarts, dimensions],
  hashContent,
);

/** That of one checkpoint's bytes in their places, and that of all that lie in these places one after the other. */
export interface LayoutDigests {
  /** Changes when a file is written again. Files may be written without a trace, so two checkpoints may have the same. */
  readonly layout: string;
  /** Of all that a plan depends on: the versions of a publisher have the same. */
  readonly lasting: string;
}

/**
 * SHA-256, in hex, of names, dtypes, shapes, sizes, segments and offsets, in the order of the rows. Two checkpoints that
 * differ only in what the tensors contain have the same layout.
 */
export function layoutDigests(manifest: Manifest): LayoutDigests {
  const hash = layoutHashes.of(manifest);
  const withSegments = (nameOf: (path: string) => string) => {
    const segments = manifest.segments.map(({ path, bytes, host, rank }) => [
      nameOf(path),
      bytes,
      host,
      rank,
    ]);
    return hash.copy().update(JSON.stringify(segments)).digest('hex');
  };
  return { layout: withSegments((path) => path), lasting: withSegments(lastingName) };
}

/**
 * SHA-256, in hex, of what the tensors are: names, dtypes, shapes and digests, and nothing about where they lie or
 * in which order. It is the version of a checkpoint: the same weights have the same on any number of ranks.
 */
export function contentDigest(manifest: Manifest): string {
  const { hash, rows } = contentHashes.of(manifest);
  // By halves: as one number each would become an object.
  const { buffer, byteOffset, length } = manifest.digests;
  const halves = new Uint32Array(buffer, byteOffset, 2 * length);
  const digests = new Uint32Array(2 * rows.length);
  for (let index = 0; index < rows.length; index += 1) {
    digests[2 * index] = halves[2 * rows[index]!]!;
    digests[2 * index + 1] = halves[2 * rows[index]! + 1]!;
  }
  return hash.copy().update(bytesOfColumn(digests)).digest('hex');
}

function hashContent(manifest: Manifest): { readonly hash: Hash; readonly rows: Uint32Array } {
  // By UTF-16 units. Sorted as names and not as rows: a comparison in JavaScript for each pair takes several times as long.
  const names = [...manifest.names].sort();
  const rows = rowsOf(names, manifest.names);
  const hash = startHash('weightcast content 1', names);
  const dtypes = new Uint8Array(rows.length);
  const shapeStarts = new Uint32Array(rows.length + 1);
  const dimensions = new Float64Array(manifest.dimensions.length);
  let dimension = 0;
  for (let index = 0; index < rows.length; index += 1) {
    const row = rows[index]!;
    dtypes[index] = manifest.dtypes[row]!;
    for (let from = manifest.shapeStarts[row]!; from < manifest.shapeStarts[row + 1]!; from += 1) {
      dimensions[dimension] = manifest.dimensions[from]!;
      dimension += 1;
    }
    shapeStarts[index + 1] = dimension;
  }
  for (const column of [dtypes, shapeStarts, dimensions]) hash.update(bytesOfColumn(column));
  return { hash, rows };
}

const tensorsDigests = new OfColumns(
  ({ dtypes, shapeStarts, dimensions }) => [dtypes, shapeStarts, dimensions],
  ({ names, dtypes, shapeStarts, dimensions }) => {
    const hash = startHash('weightcast tensors 1', names);
    for (const column of [dtypes, shapeStarts, dimensions]) hash.update(bytesOfColumn(column));
    return hash.digest('hex');
  },
);

/** SHA-256, in hex, of names, dtypes and shapes in the order of the rows: the same wherever and in what file they lie. */
export function tensorsDigest(manifest: Manifest): string {
  return tensorsDigests.of(manifest);
}

/** SHA-256, in hex, of digests of all tensors, in the order of a manifest's rows. */
export function arrivalDigest(digests: BigUint64Array): string {
  return createHash('sha256').update(bytesOfColumn(digests)).digest('hex');
}

/** Of each of the sorted names its row. */
function rowsOf(sorted: readonly string[], names: readonly string[]): Uint32Array {
  const rowOf = new Map<string, number>();
  for (let row = 0; row < names.length; row += 1) rowOf.set(names[row]!, row);
  const rows = new Uint32Array(sorted.length);
  for (let index = 0; index < sorted.length; index += 1) rows[index] = rowOf.get(sorted[index]!)!;
  return rows;
}

/** A hash of the names with their lengths, so that no two lists of names give the same input. */
function startHash(purpose: string, names: readonly string[]) {
  const lengths = new Uint32Array(names.length);
  for (let row = 0; row < names.length; row += 1) lengths[row] = names[row]!.length;
  return createHash('sha256')
    .update(`${purpose}: ${names.length} tensors\n`)
    .update(bytesOfColumn(lengths))
    .update(names.join(''), 'utf8');
}
