import fc from 'fast-check';
import type { CheckpointIndex } from '../../src/checkpoint/source.ts';

interface IndexedFile {
  readonly tensors: readonly number[];
  readonly shared?: boolean;
}

/** Files of U8 tensors with so many bytes each; data begins at byte 100 of a file. */
export function indexOf(files: readonly IndexedFile[]): CheckpointIndex {
  const rows = files.flatMap(({ tensors }, file) =>
    tensors.map((bytes, position) => ({
      name: `f${file}.t${position}`,
      bytes,
      file,
      offset: 100 + tensors.slice(0, position).reduce((a, b) => a + b, 0),
    })),
  );
  return {
    files: files.map(({ tensors, shared }, file) => ({
      path: `${shared ? '/dev/shm' : '/data'}/f${file}`,
      bytes: 100 + tensors.reduce((a, b) => a + b, 0),
      inSharedMemory: shared ?? false,
      device: null,
      identity: `1:${file}:0:0:0:header`,
    })),
    names: rows.map(({ name }) => name),
    dtypes: new Uint8Array(rows.length).fill(4),
    shapeStarts: Uint32Array.from({ length: rows.length + 1 }, (_, row) => row),
    dimensions: Float64Array.from(rows, ({ bytes }) => bytes),
    bytes: Float64Array.from(rows, ({ bytes }) => bytes),
    fileOf: Uint32Array.from(rows, ({ file }) => file),
    offsets: Float64Array.from(rows, ({ offset }) => offset),
  };
}

const tensorBytes = fc.oneof(
  { weight: 1, arbitrary: fc.constant(0) },
  { weight: 4, arbitrary: fc.integer({ min: 1, max: 5_000 }) },
  { weight: 4, arbitrary: fc.integer({ min: 1, max: 9 }).map((units) => 256 * units) },
);

export const indices: fc.Arbitrary<CheckpointIndex> = fc
  .array(
    fc.record({
      tensors: fc.array(tensorBytes, { maxLength: 20, size: 'max' }),
      shared: fc.nat(9).map((one) => one < 3),
    }),
    { minLength: 1, maxLength: 5 },
  )
  .map(indexOf);
