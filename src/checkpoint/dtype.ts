/**
 * The element types of the safetensors format, as its specification names them, with their size in bits. Sizes are
 * bits because the format packs the sub-byte kinds (`F4`, `F6_…`): a tensor's bytes are
 * elements × bits ÷ 8, and must be whole.
 */
import { CheckpointError } from '../errors.ts';

export interface Dtype {
  /** As a safetensors header spells it. */
  readonly name: string;
  readonly bits: number;
  /**
   * `torch.<name>` of the same elements; null where torch has none (then no engine worker can take such a tensor).
   * `float4_e2m1fn_x2` holds two elements in one: its last dimension is half of the format's.
   */
  readonly torch: string | null;
}

/**
 * In the order in which the format's reference implementation ranks them (safetensors 0.8), by which it sorts the
 * tensors of a file. Manifests refer to this table by index: all processes of a cluster must share it.
 */
export const DTYPES: readonly Dtype[] = [
  { name: 'BOOL', bits: 8, torch: 'torch.bool' },
  { name: 'F4', bits: 4, torch: 'torch.float4_e2m1fn_x2' },
  { name: 'F6_E2M3', bits: 6, torch: null },
  { name: 'F6_E3M2', bits: 6, torch: null },
  { name: 'U8', bits: 8, torch: 'torch.uint8' },
  { name: 'I8', bits: 8, torch: 'torch.int8' },
  { name: 'F8_E5M2', bits: 8, torch: 'torch.float8_e5m2' },
  { name: 'F8_E4M3', bits: 8, torch: 'torch.float8_e4m3fn' },
  { name: 'F8_E8M0', bits: 8, torch: 'torch.float8_e8m0fnu' },
  { name: 'F8_E4M3FNUZ', bits: 8, torch: 'torch.float8_e4m3fnuz' },
  { name: 'F8_E5M2FNUZ', bits: 8, torch: 'torch.float8_e5m2fnuz' },
  { name: 'I16', bits: 16, torch: 'torch.int16' },
  { name: 'U16', bits: 16, torch: 'torch.uint16' },
  { name: 'F16', bits: 16, torch: 'torch.float16' },
  { name: 'BF16', bits: 16, torch: 'torch.bfloat16' },
  { name: 'I32', bits: 32, torch: 'torch.int32' },
  { name: 'U32', bits: 32, torch: 'torch.uint32' },
  { name: 'F32', bits: 32, torch: 'torch.float32' },
  { name: 'C64', bits: 64, torch: 'torch.complex64' },
  { name: 'F64', bits: 64, torch: 'torch.float64' },
  { name: 'I64', bits: 64, torch: 'torch.int64' },
  { name: 'U64', bits: 64, torch: 'torch.uint64' },
];

const indexOfName = new Map(DTYPES.map((dtype, index) => [dtype.name, index]));

/** Index into {@link DTYPES}, or -1 for a name that the format does not have. */
export function dtypeIndex(name: string): number {
  return indexOfName.get(name) ?? -1;
}

/**
 * Bytes of a tensor: the product of its dimensions (1 for a scalar) × bits ÷ 8.
 * Throws a CheckpointError that names dtype and shape when a dimension is negative or a fraction, and when the bits
 * pass 2^53 or end within a byte.
 */
export function bytesOf(dtype: Dtype, shape: ArrayLike<number>): number {
  let elements = 1;
  for (let axis = 0; axis < shape.length; axis += 1) {
    if (!Number.isSafeInteger(shape[axis]) || shape[axis]! < 0) {
      throw new CheckpointError(
        `${dtype.name} ${shapeText(shape)} is no shape: dimensions are whole numbers from 0`,
      );
    }
    elements *= shape[axis]!;
  }
  const bits = elements * dtype.bits;
  // One check at the end is enough: a product that was ever inexact stays beyond 2^53, or is 0 and right.
  if (!Number.isSafeInteger(bits))
    throw new CheckpointError(`${dtype.name} ${shapeText(shape)} is too large`);
  if (bits % 8 !== 0) {
    throw new CheckpointError(`${dtype.name} ${shapeText(shape)} does not fill whole bytes (${bits} bits)`);
  }
  return bits / 8;
}

/** A shape for a message, cut after eight dimensions. */
export function shapeText(shape: ArrayLike<number>): string {
  const shown = Array.from({ length: Math.min(shape.length, 8) }, (_, axis) => String(shape[axis]));
  if (shape.length > shown.length) shown.push('…');
  return `[${shown.join(', ')}]`;
}
