import { DTYPES, dtypeIndex } from '../../src/checkpoint/dtype.ts';
import type { Manifest, SegmentInfo } from '../../src/checkpoint/manifest.ts';
import type { SeededRandom } from './seeded-random.ts';

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

/** Tensors of one segment, packed or with gaps, some of them without bytes. */
function randomRows(random: SeededRandom, segment: number, prefix: string, largest: number): Row[] {
  let offset = 0;
  return Array.from({ length: random.whole(0, 30) }, (_, index) => {
    const dtype = random.pick(DTYPES.filter(({ bits }) => bits >= 8));
    const elements = random.chance(0.1) ? 0 : random.whole(1, Math.ceil(largest / random.pick([1, 10, 100])));
    const bytes = (elements * dtype.bits) / 8;
    if (random.chance(0.7)) offset = Math.ceil(offset / 256) * 256;
    const row = { name: `${prefix}.${index}`, bytes, segment, offset, dtype: dtype.name, shape: [elements] };
    offset += bytes;
    return row;
  });
}

export interface Cluster {
  readonly manifest: Manifest;
  readonly ranks: { readonly rank: number; readonly host: string; readonly freeBytes: number }[];
}

/** A checkpoint over several hosts, rows in any order, and ranks of which not every one holds a segment. */
export function randomCluster(random: SeededRandom): Cluster {
  const hosts = random.whole(1, 4);
  const perHost = random.whole(1, 5);
  const ranks = Array.from({ length: hosts * perHost }, (_, rank) => ({
    rank: rank + 3,
    host: `host-${Math.floor(rank / perHost)}`,
    freeBytes: random.whole(2 ** 20, 2 ** 22),
  }));
  const segments = ranks.filter(() => random.chance(0.8)).map(({ rank, host }) => segmentOf(rank, host));
  const rows = segments.flatMap((_, segment) => randomRows(random, segment, `s${segment}`, 20_000));
  return { manifest: manifestOf(random.shuffled(rows), segments), ranks: random.shuffled(ranks) };
}
