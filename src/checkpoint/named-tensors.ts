import { CheckpointError } from '../errors.ts';
import { byLayer, layerKeys } from '../plan/layer-order.ts';
import { placeTensors } from '../plan/tensor-shares.ts';
import { bytesOf, DTYPES, dtypeIndex, shapeText } from './dtype.ts';
import type { Manifest, SegmentInfo } from './manifest.ts';

/** A tensor in the memory of this process. */
export interface NamedTensor {
  /** As the safetensors format names it: `BF16`, `F32`, `F8_E4M3`, … */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Row-major, little-endian; exactly as many bytes as dtype and shape make. */
  readonly data: Uint8Array;
}

export type NamedTensors = Readonly<Record<string, NamedTensor>>;

/** A segment that takes a run of tensors; the runs of all segments follow each other. */
export interface TensorSegment extends SegmentInfo {
  /** How many. */
  readonly tensors: number;
}

/**
 * The same tensors, layer by layer. Each rank's segment takes a run of them: engines hold what has come of a layer until it
 * is whole, and of runs in another order, as of all attention weights before all others, parts of every layer come at once.
 */
export function inOrderOfLayers(tensors: NamedTensors): NamedTensors {
  const entries = Object.entries(tensors);
  const keys = layerKeys(entries.map(([name]) => name));
  return Object.fromEntries(byLayer(keys, [...entries.keys()]).map((row) => entries[row]!));
}

/** Bytes of each tensor, in the order of their names. Throws `CheckpointError` naming the tensor that is wrong. */
export function sizesOfTensors(checkpoint: string, tensors: NamedTensors): Float64Array {
  const sizes = Float64Array.from(Object.entries(tensors), ([name, { dtype, shape, data }]) => {
    const index = dtypeIndex(dtype);
    if (index < 0) throw new CheckpointError(`tensor ${name}: there is no dtype ${dtype}`);
    const bytes = bytesOf(DTYPES[index]!, shape);
    if (bytes !== data.byteLength) {
      throw new CheckpointError(
        `tensor ${name}: ${dtype} ${shapeText(shape)} is ${bytes} bytes, its data has ${data.byteLength}`,
      );
    }
    return bytes;
  });
  if (sizes.length === 0) throw new CheckpointError(`checkpoint ${checkpoint} has no tensors`);
  return sizes;
}

/** What the segments hold once the tensors are written to these places; digests are still 0. */
export function describeTensors(
  checkpoint: string,
  tensors: Readonly<Record<string, Pick<NamedTensor, 'dtype' | 'shape'>>>,
  sizes: Float64Array,
  segments: readonly TensorSegment[],
): Manifest {
  const entries = Object.entries(tensors);
  const shapeStarts = new Uint32Array(entries.length + 1);
  for (const [row, [, { shape }]] of entries.entries())
    shapeStarts[row + 1] = shapeStarts[row]! + shape.length;
  const segmentOf = new Uint32Array(entries.length);
  const offsets = new Float64Array(entries.length);
  let start = 0;
  for (const [index, segment] of segments.entries()) {
    const end = start + segment.tensors;
    segmentOf.fill(index, start, end);
    offsets.set(placeTensors(sizes.subarray(start, end)).offsets, start);
    start = end;
  }
  return {
    checkpoint,
    names: entries.map(([name]) => name),
    dtypes: Uint8Array.from(entries, ([, { dtype }]) => dtypeIndex(dtype)),
    shapeStarts,
    dimensions: Float64Array.from(entries.flatMap(([, { shape }]) => shape)),
    bytes: sizes,
    segments: segments.map(({ path, bytes, host, rank }) => ({ path, bytes, host, rank })),
    segmentOf,
    offsets,
    digests: new BigUint64Array(entries.length),
  };
}
