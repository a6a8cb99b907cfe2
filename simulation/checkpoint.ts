import { bytesOf, DTYPES, dtypeIndex } from '../src/checkpoint/dtype.ts';
import { encodeIdentity } from '../src/checkpoint/file-identity.ts';
import { contentDigest, type Manifest } from '../src/checkpoint/manifest.ts';
import type { CheckpointIndex } from '../src/checkpoint/source.ts';
import { digestOf } from './contents.ts';
import type { KeptBytes } from './kept-parts.ts';
import type { SeededRandom } from './random.ts';

/** Room for a file's header, so that no tensor starts at offset 0. */
const headerBytes = 4_096;
const dtypes = ['BF16', 'F8_E4M3', 'F32'];

export interface TensorShape {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
}

/** The modules of a layer, as names are sorted; the engine fuses the first with the last. */
const modules = ['kv_a_proj_with_mqa', 'o_proj', 'mlp', 'q_a_proj'];

/**
 * A realistic mix of tensors: a few large ones, many small ones, now and then an empty one. What the engine fuses is
 * together no larger than the largest.
 */
export function randomModel(random: SeededRandom, tensors: number, largestBytes: number): TensorShape[] {
  return Array.from({ length: tensors }, (_, number) => {
    const dtype = random.pick(dtypes);
    const most = (largestBytes * 8) / DTYPES[dtypeIndex(dtype)]!.bits;
    const module = modules[number % modules.length]!;
    const share = module.includes('_a_proj') ? 2 : 1;
    const elements = random.chance(0.05) ? 0 : random.whole(1, most / share / random.pick([1, 4, 64]));
    const layer = Math.floor(number / modules.length);
    return { name: `layers.${layer}.${module}.weight`, dtype, shape: [elements] };
  });
}

/** A checkpoint on disk and the digests of its tensors. */
export interface SimulatedCheckpoint {
  readonly path: string;
  readonly index: CheckpointIndex;
  readonly digests: ReadonlyMap<string, bigint>;
  /** `contentDigest` of its manifest. */
  readonly digest: string;
}

/** A checkpoint of the model at `path`; every path holds different weights. */
export function checkpointAt(
  path: string,
  model: readonly TensorShape[],
  inSharedMemory: boolean,
): SimulatedCheckpoint {
  const bytes = Float64Array.from(model, ({ dtype, shape }) => bytesOf(DTYPES[dtypeIndex(dtype)]!, shape));
  const offsets = new Float64Array(model.length);
  let end = headerBytes;
  for (const [row, size] of bytes.entries()) {
    offsets[row] = end;
    end += size;
  }
  const stamps = { modified: '0', changed: '0' };
  const identity = encodeIdentity({ device: '0', inode: path, bytes: end, ...stamps, header: path });
  const index: CheckpointIndex = {
    files: [{ path, bytes: end, inSharedMemory, device: null, identity }],
    names: model.map(({ name }) => name),
    dtypes: Uint8Array.from(model, ({ dtype }) => dtypeIndex(dtype)),
    shapeStarts: Uint32Array.from({ length: model.length + 1 }, (_, row) => row),
    dimensions: Float64Array.from(model, ({ shape }) => shape[0]!),
    bytes,
    fileOf: new Uint32Array(model.length),
    offsets,
  };
  const digests = new Map(
    index.names.map((name, row) => [name, fileDigest(path, offsets[row]!, bytes[row]!)]),
  );
  return { path, index, digests, digest: contentDigest(manifestOf(index, digests)) };
}

function fileDigest(path: string, from: number, bytes: number): bigint {
  return digestOf(bytes === 0 ? [] : [{ start: 0, end: bytes, source: path, from }]);
}

/** Digest of the bytes `start … end` of one of its tensors. */
export function partDigest(
  { path, index }: SimulatedCheckpoint,
  row: number,
  { start, end }: KeptBytes,
): bigint {
  return digestOf(start === end ? [] : [{ start, end, source: path, from: index.offsets[row]! + start }]);
}

function manifestOf(index: CheckpointIndex, digests: ReadonlyMap<string, bigint>): Manifest {
  const { names, dtypes: kinds, shapeStarts, dimensions, bytes, fileOf, offsets } = index;
  return {
    checkpoint: '',
    names,
    dtypes: kinds,
    shapeStarts,
    dimensions,
    bytes,
    segments: [],
    segmentOf: fileOf,
    offsets,
    digests: BigUint64Array.from(names, (name) => digests.get(name)!),
  };
}
