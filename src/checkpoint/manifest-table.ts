import { DTYPES, type Dtype } from './dtype.ts';

/**
 * What a checkpoint contains and where it lies, in columns: a checkpoint of 70,000 tensors is a few typed arrays
 * and not 70,000 objects. Row `i` of every column is tensor `i`.
 */
export interface Manifest {
  readonly checkpoint: string;
  readonly names: readonly string[];
  /** Index into {@link DTYPES}. */
  readonly dtypes: Uint8Array;
  /** Dimensions of tensor i: `dimensions[shapeStarts[i] … shapeStarts[i + 1]]`; one entry more than tensors. */
  readonly shapeStarts: Uint32Array;
  readonly dimensions: Float64Array;
  readonly bytes: Float64Array;
  readonly segments: readonly SegmentInfo[];
  /** Index into `segments`. */
  readonly segmentOf: Uint32Array;
  /** Where the tensor starts in its segment, in bytes. */
  readonly offsets: Float64Array;
  /** Digest of each tensor (native/memory/digest.h). */
  readonly digests: BigUint64Array;
}

/** One named shared-memory region on one host. Any rank of that host can read it. */
export interface SegmentInfo {
  /** Of a segment that weightcast created; for a user's file the name that `adoptedSegment` of file-identity.ts makes. */
  readonly path: string;
  readonly bytes: number;
  readonly host: string;
  /** The rank that loaded it. */
  readonly rank: number;
  /** It is gone, with the memory of its host: no rank can read it. Known while planning only, and never encoded. */
  readonly lost?: boolean;
}

/** One tensor, for those few places that look at a single one. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly bytes: number;
}

export function tensorAt(manifest: Manifest, row: number): TensorInfo {
  return {
    name: manifest.names[row]!,
    dtype: DTYPES[manifest.dtypes[row]!]!,
    shape: shapeOf(manifest, row),
    bytes: manifest.bytes[row]!,
  };
}

/** The name of a row's dtype as the safetensors format spells it. */
export function dtypeName(manifest: Pick<Manifest, 'dtypes'>, row: number): string {
  return DTYPES[manifest.dtypes[row]!]!.name;
}

/** The dimensions of a row; empty for a scalar. */
export function shapeOf(manifest: Pick<Manifest, 'shapeStarts' | 'dimensions'>, row: number): number[] {
  return Array.from(manifest.dimensions.subarray(manifest.shapeStarts[row]!, manifest.shapeStarts[row + 1]!));
}
