import { bytesOf, DTYPES, dtypeIndex } from '../src/checkpoint/dtype.ts';
import type { LinkTensor } from '../src/engines/worker-link/worker-link.ts';

/** A worker's place among those of its engine that divide the model among them. */
export interface Share {
  readonly part: number;
  readonly parts: number;
}

/** What a worker keeps of a tensor, which has one dimension. */
export interface KeptBytes {
  /** Of the tensor's bytes. */
  readonly start: number;
  readonly end: number;
  /** The same in elements. */
  readonly cut: 'all' | 'nothing' | { readonly start: number; readonly length: number };
}

/**
 * An MLP is an expert here, of which one worker keeps all and the others nothing; other tensors are divided if they can be,
 * and else kept by all.
 */
export function keptBytes(
  { name, dtype, shape }: Pick<LinkTensor, 'name' | 'dtype' | 'shape'>,
  share: Share | null,
): KeptBytes {
  const bytes = bytesOf(DTYPES[dtypeIndex(dtype)]!, shape);
  const elements = shape[0]!;
  const all = { start: 0, end: bytes, cut: 'all' } as const;
  if (share === null) return all;
  const { part, parts } = share;
  if (name.includes('.mlp.')) {
    const layer = Number(/\d+/.exec(name)?.[0] ?? 0);
    return layer % parts === part ? all : { start: 0, end: 0, cut: 'nothing' };
  }
  if (elements === 0 || elements % parts !== 0) return all;
  const [length, size] = [elements / parts, bytes / parts];
  return { start: part * size, end: (part + 1) * size, cut: { start: part * length, length } };
}
