import { dtypeIndex } from '../../src/checkpoint/dtype.ts';
import { encodeIdentity } from '../../src/checkpoint/file-identity.ts';
import type { CheckpointIndex } from '../../src/checkpoint/source.ts';
import { alignUp } from '../../src/plan/alignment.ts';
import { bytesOfTensor, type ListedTensor, tensorList } from '../tensor-lists.ts';

/** Of published checkpoints of this size. */
const tensorsPerFile = 2_500;

/** The tensors of Kimi-K2 with experts in INT4, 208,215 of them, or `count` of its like. */
export function largeModel(count: number | null): ListedTensor[] {
  const model = tensorList('kimi-k2-int4');
  if (count === null) return model;
  // Another model of the same layers, as a checkpoint with an adapter for each of several tasks has.
  return Array.from({ length: count }, (_, row) => {
    const { name, ...rest } = model[row % model.length]!;
    return { name: `model.tasks.${Math.floor(row / model.length)}.${name}`, ...rest };
  });
}

/** As if its files had been opened. */
export function indexOf(model: readonly ListedTensor[]): CheckpointIndex {
  const fileOf = Uint32Array.from(model, (_, row) => Math.floor(row / tensorsPerFile));
  const sizes = new Float64Array(fileOf.at(-1)! + 1).fill(4_096);
  const bytes = Float64Array.from(model, bytesOfTensor);
  const offsets = new Float64Array(model.length);
  for (const [row, size] of bytes.entries()) {
    offsets[row] = sizes[fileOf[row]!]!;
    sizes[fileOf[row]!]! += alignUp(size);
  }
  const shapeStarts = new Uint32Array(model.length + 1);
  for (const [row, { shape }] of model.entries()) shapeStarts[row + 1] = shapeStarts[row]! + shape.length;
  return {
    files: Array.from(sizes, (size, file) => {
      const path = `/models/large/model-${file}.safetensors`;
      const stamps = { modified: '0', changed: '0', header: path };
      const identity = encodeIdentity({ device: '0', inode: `${file}`, bytes: size, ...stamps });
      return { path, bytes: size, inSharedMemory: false, device: null, identity };
    }),
    names: model.map(({ name }) => name),
    dtypes: Uint8Array.from(model, ({ dtype }) => dtypeIndex(dtype)),
    shapeStarts,
    dimensions: Float64Array.from(model.flatMap(({ shape }) => shape)),
    bytes,
    fileOf,
    offsets,
  };
}
