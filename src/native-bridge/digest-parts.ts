import { strict as assert } from 'node:assert';

/** A rectangle of a tensor's bytes, lying in a mapping. All in bytes. */
export interface TensorPart {
  readonly offset: number;
  readonly rowBytes: number;
  readonly rows: number;
  /** From the start of a row to the start of the next, in the mapping. */
  readonly pitch: number;
  /** Where the part's first byte stands in the tensor. */
  readonly tensorOffset: number;
  /** From the start of a row to the start of the next, in the tensor. */
  readonly tensorPitch: number;
  readonly tensorBytes: number;
}

/** The numbers of a part as `ThreadPool.digest` and `Device.digest` take them; several parts are laid end to end. */
export function digestPart(part: TensorPart): number[] {
  const { offset, rowBytes, rows, pitch, tensorOffset, tensorPitch, tensorBytes } = part;
  return [offset, rowBytes, rows, pitch, tensorOffset, tensorPitch, tensorBytes];
}

/** The parts of whole tensors that each lie in one run: one for each pair of offset and bytes. */
export function wholeTensors(offsets: Float64Array, bytes: Float64Array): Float64Array {
  assert.equal(offsets.length, bytes.length, 'every tensor has an offset and a size');
  const parts = new Float64Array(7 * offsets.length);
  for (const [index, offset] of offsets.entries()) {
    const size = bytes[index]!;
    // A tensor without bytes may have an offset past the end of the file.
    const start = size === 0 ? 0 : offset;
    parts.set([start, size, 1, size, 0, size, size], 7 * index);
  }
  return parts;
}
