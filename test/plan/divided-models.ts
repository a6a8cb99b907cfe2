/** Models that are divided among the engine workers of an instance. */
import fc from 'fast-check';
import { type Cuts, WHOLE } from '../../src/checkpoint/cuts.ts';
import { DTYPES, dtypeIndex } from '../../src/checkpoint/dtype.ts';
import type { Manifest } from '../../src/checkpoint/manifest.ts';
import { sentParts } from '../../src/plan/kept-parts.ts';
import { checkProperty } from '../check-property.ts';
import { manifestOf, segmentOf } from './manifests.ts';

/** What one member keeps of one tensor: dimension, start, length. */
export type Kept = readonly [dim: number, start: number, length: number];
export const nothing: Kept = [0, 0, 0];
export const whole: Kept = [WHOLE, 0, 1];

export function cutsOf(kept: readonly Kept[]): Cuts {
  return {
    dims: Uint8Array.from(kept, ([dim]) => dim),
    starts: Uint32Array.from(kept, ([, start]) => start),
    lengths: Uint32Array.from(kept, ([, , length]) => length),
  };
}

export interface Tensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** By member. */
  readonly kept: readonly Kept[];
}

export const members = 4;
const one = <T>(values: fc.Arbitrary<T>) => fc.array(values, { minLength: members, maxLength: members });

/** Divided evenly along a dimension, each part by one member or more; or anything. */
export const tensors: fc.Arbitrary<Tensor> = fc
  .record({
    dtype: fc.constantFrom('U8', 'BF16', 'F32', 'F64'),
    dim: fc.nat(2),
    sizes: fc.array(fc.constantFrom(1, 3, 8), { minLength: 3, maxLength: 3 }),
    partSize: fc.constantFrom(1, 2, 4),
    holders: one(fc.constantFrom(0, 1, 2, 3)),
    odd: fc.option(
      one(fc.oneof(fc.constant(nothing), fc.constant(whole), fc.tuple(fc.nat(3), fc.nat(9), fc.nat(9)))),
      {
        freq: 2,
        nil: null,
      },
    ),
  })
  .map(({ dtype, dim, sizes, partSize, holders, odd }) => {
    const shape = sizes.map((size, axis) => (axis === dim ? partSize * 4 : size));
    const even = holders.map((part): Kept => [dim, part * partSize, partSize]);
    return { dtype, shape, kept: odd ?? even };
  });

const bytesOf = ({ dtype, shape }: Tensor) =>
  (shape.reduce((product, size) => product * size, 1) * DTYPES[dtypeIndex(dtype)]!.bits) / 8;

/** In two segments of one host, with gaps. */
export function laidOut(list: readonly Tensor[]): Manifest {
  const ends = [0, 0];
  const rows = list.map((tensor, row) => {
    const bytes = bytesOf(tensor);
    const segment = row % 2;
    const offset = ends[segment]! + (row % 3) * 8;
    ends[segment] = offset + bytes;
    return { name: `layers.${row}.weight`, bytes, segment, offset, dtype: tensor.dtype, shape: tensor.shape };
  });
  return manifestOf(rows, [segmentOf(0, 'a'), segmentOf(1, 'a')]);
}

export const keptBy = (list: readonly Tensor[]) =>
  Array.from({ length: members }, (_, member) => cutsOf(list.map(({ kept }) => kept[member]!)));

export function forModels(
  property: (manifest: Manifest, kept: readonly Cuts[], sent: readonly Cuts[]) => void,
): void {
  checkProperty(
    fc.property(fc.array(tensors, { minLength: 1, maxLength: 12 }), (list) => {
      const manifest = laidOut(list);
      const kept = keptBy(list);
      property(manifest, kept, sentParts(manifest, kept));
    }),
    300,
  );
}

/** Four tensors of 64 KiB, each divided by two members. */
export const halves = Array.from({ length: 4 }, (): Tensor => {
  return { dtype: 'BF16', shape: [128, 256], kept: [0, 1].map((part): Kept => [1, part * 128, 128]) };
});
export const divided = laidOut(halves);
export const sentHalves = sentParts(
  divided,
  [0, 1].map((member) => cutsOf(halves.map(({ kept }) => kept[member]!))),
);
