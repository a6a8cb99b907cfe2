import type { CheckpointIndex } from '../../src/checkpoint/source.ts';
import type { SeededRandom } from './seeded-random.ts';

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

export function randomIndex(random: SeededRandom): CheckpointIndex {
  return indexOf(
    Array.from({ length: random.whole(1, 5) }, () => ({
      tensors: Array.from({ length: random.whole(0, 20) }, () =>
        random.chance(0.1) ? 0 : random.pick([random.whole(1, 5000), 256 * random.whole(1, 9)]),
      ),
      shared: random.chance(0.3),
    })),
  );
}
