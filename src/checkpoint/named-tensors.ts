import { hostname } from 'node:os';
import { CheckpointError } from '../errors.ts';
import { Mapping, ThreadPool } from '../native-bridge/memory.ts';
import { bytesOf, DTYPES, dtypeIndex, shapeText } from './dtype.ts';
import { encodeManifest, type Manifest } from './manifest.ts';

/** A tensor in the memory of this process. */
export interface NamedTensor {
  /** As the safetensors format names it: `BF16`, `F32`, `F8_E4M3`, … */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Row-major, little-endian; exactly as many bytes as dtype and shape make. */
  readonly data: Uint8Array;
}

export type NamedTensors = Readonly<Record<string, NamedTensor>>;

/** Where tensors start in slots and segments: what the worker link asks for. */
const alignment = 256;

/**
 * Copies tensors into a new segment at `path` and describes it as an encoded manifest whose digests are still
 * blank. Throws `CheckpointError` naming the tensor that is wrong; then nothing is left behind.
 */
export async function writeTensors(
  path: string,
  checkpoint: string,
  tensors: NamedTensors,
): Promise<Uint8Array> {
  const manifest = describeTensors(path, checkpoint, tensors);
  const segment = Mapping.create(path, manifest.segments[0]!.bytes);
  const pool = new ThreadPool(2);
  try {
    const copies = manifest.names.map((name, row) => {
      const { data } = tensors[name]!;
      return data.byteLength === 0 ? null : pool.copyIn(data, segment, manifest.offsets[row]!);
    });
    await Promise.all(copies);
    return encodeManifest(manifest);
  } catch (error) {
    segment.unlink();
    throw error;
  } finally {
    pool.close();
    segment.close();
  }
}

function describeTensors(path: string, checkpoint: string, tensors: NamedTensors): Manifest {
  const names = Object.keys(tensors);
  if (names.length === 0) throw new CheckpointError(`checkpoint ${checkpoint} has no tensors`);
  const rows = names.map((name) => {
    const { dtype, shape, data } = tensors[name]!;
    const index = dtypeIndex(dtype);
    if (index < 0) throw new CheckpointError(`tensor ${name}: there is no dtype ${dtype}`);
    const bytes = bytesOf(DTYPES[index]!, shape);
    if (bytes !== data.byteLength) {
      throw new CheckpointError(
        `tensor ${name}: ${dtype} ${shapeText(shape)} is ${bytes} bytes, its data has ${data.byteLength}`,
      );
    }
    return { index, shape, bytes };
  });
  const shapeStarts = new Uint32Array(rows.length + 1);
  const offsets = new Float64Array(rows.length);
  let end = 0;
  for (const [row, { shape, bytes }] of rows.entries()) {
    shapeStarts[row + 1] = shapeStarts[row]! + shape.length;
    offsets[row] = Math.ceil(end / alignment) * alignment;
    end = offsets[row]! + bytes;
  }
  return {
    checkpoint,
    names,
    dtypes: Uint8Array.from(rows, ({ index }) => index),
    shapeStarts,
    dimensions: Float64Array.from(rows.flatMap(({ shape }) => shape)),
    bytes: Float64Array.from(rows, ({ bytes }) => bytes),
    segments: [{ path, bytes: Math.max(end, 1), host: hostname(), rank: 0 }],
    segmentOf: new Uint32Array(rows.length),
    offsets,
    digests: new BigUint64Array(rows.length),
  };
}
