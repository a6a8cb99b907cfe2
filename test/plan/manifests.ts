import fc from 'fast-check';
import { DTYPES, type Dtype, dtypeIndex } from '../../src/checkpoint/dtype.ts';
import type { Manifest, SegmentInfo } from '../../src/checkpoint/manifest.ts';

/** One row of a manifest, as a test writes it down; `dtype` is U8 and the shape is `[bytes]` unless given. */
export interface Row {
  readonly name: string;
  readonly bytes: number;
  readonly segment: number;
  readonly offset: number;
  readonly digest?: bigint;
  readonly dtype?: string;
  readonly shape?: readonly number[];
}

export function manifestOf(
  rows: readonly Row[],
  segments: readonly SegmentInfo[],
  checkpoint = 'test',
): Manifest {
  const shapes = rows.map(({ bytes, shape }) => shape ?? [bytes]);
  const shapeStarts = new Uint32Array(rows.length + 1);
  for (const [row, shape] of shapes.entries()) shapeStarts[row + 1] = shapeStarts[row]! + shape.length;
  return {
    checkpoint,
    names: rows.map(({ name }) => name),
    dtypes: Uint8Array.from(rows, ({ dtype }) => dtypeIndex(dtype ?? 'U8')),
    shapeStarts,
    dimensions: Float64Array.from(shapes.flat()),
    bytes: Float64Array.from(rows, ({ bytes }) => bytes),
    segments,
    segmentOf: Uint32Array.from(rows, ({ segment }) => segment),
    offsets: Float64Array.from(rows, ({ offset }) => offset),
    digests: BigUint64Array.from(rows, ({ digest }) => digest ?? 0n),
  };
}

export function segmentOf(rank: number, host: string, bytes = 2 ** 40): SegmentInfo {
  return { path: `/dev/shm/test/${host}/${rank}`, bytes, host, rank };
}

interface LaidOut {
  readonly dtype: Dtype;
  readonly elements: number;
  readonly isAligned: boolean;
}

/** Tensors of one segment, packed or with gaps, some of them without bytes. */
function rowsOf(tensors: readonly LaidOut[], segment: number): Row[] {
  let end = 0;
  return tensors.map(({ dtype, elements, isAligned }, index) => {
    const offset = isAligned ? Math.ceil(end / 256) * 256 : end;
    const bytes = (elements * dtype.bits) / 8;
    end = offset + bytes;
    return { name: `s${segment}.${index}`, bytes, segment, offset, dtype: dtype.name, shape: [elements] };
  });
}

export interface Cluster {
  readonly manifest: Manifest;
  readonly ranks: { readonly rank: number; readonly host: string; readonly freeBytes: number }[];
}

const tensors = fc.array(
  fc.record({
    dtype: fc.constantFrom(...DTYPES.filter(({ bits }) => bits >= 8)),
    elements: fc.oneof(fc.nat(200), fc.nat(2_000), fc.nat(20_000), fc.constant(0)),
    isAligned: fc.boolean(),
  }),
  { maxLength: 30, size: 'max' },
);

/** Ranks of each host. One without tensors has no segment. */
const hosts = fc.array(
  fc.array(
    fc.record({
      freeBytes: fc.integer({ min: 2 ** 20, max: 2 ** 22 }),
      tensors: fc.option(tensors, { freq: 4, nil: null }),
    }),
    { minLength: 1, maxLength: 5 },
  ),
  { minLength: 1, maxLength: 4 },
);

/** A checkpoint over several hosts, rows and ranks in any order, and ranks of which not every one holds a segment. */
export const clusters: fc.Arbitrary<Cluster> = fc
  .tuple(hosts, fc.array(fc.nat(), { minLength: 20, maxLength: 20, size: 'max' }))
  .map(([ranksOfHosts, keys]) => {
    const members = ranksOfHosts
      .flatMap((ranks, host) => ranks.map((rank) => ({ ...rank, host: `host-${host}` })))
      .map((member, index) => ({ ...member, rank: index + 3 }));
    const holders = members.filter((member) => member.tensors !== null);
    const segments = holders.map(({ rank, host }) => segmentOf(rank, host));
    const rows = holders.flatMap((holder, segment) => rowsOf(holder.tensors!, segment));
    const ranks = members.map(({ rank, host, freeBytes }) => ({ rank, host, freeBytes }));
    return { manifest: manifestOf(reordered(rows, keys), segments), ranks: reordered(ranks, keys) };
  });

/** The items in the order of their keys, which are used again and again. */
export function reordered<T>(items: readonly T[], keys: readonly number[]): T[] {
  const keyed = items.map((item, index) => ({ item, key: (keys[index % keys.length] ?? 0) + index }));
  return keyed.sort((one, other) => one.key - other.key).map(({ item }) => item);
}
