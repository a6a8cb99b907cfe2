import { DTYPES, dtypeIndex, shapeText } from '../../checkpoint/dtype.ts';
import { quoted } from '../../checkpoint/printable.ts';
import { CheckpointError } from '../../errors.ts';
import type { LinkTensor } from './worker-link.ts';

/** A tensor as torch describes it. */
export interface TorchForm {
  /** `torch.<dtype>`. */
  readonly dtype: string;
  readonly shape: readonly number[];
}

/**
 * How an engine worker, which knows only torch's dtypes, has to see a tensor of a safetensors file. torch has no
 * single four-bit element: `float4_e2m1fn_x2` is two of them, and the last dimension half of the file's, which is how
 * safetensors itself hands such tensors to torch.
 *
 * Throws a CheckpointError that names the tensor, if torch has no dtype for it.
 */
export function torchForm({ name, dtype, shape }: Omit<LinkTensor, 'offset'>): TorchForm {
  const known = DTYPES[dtypeIndex(dtype)];
  const refuse = (why: string) => new CheckpointError(`tensor ${quoted(name)} of dtype ${dtype} ${why}`);
  if (known === undefined || known.torch === null) {
    throw refuse('cannot go to an engine worker: torch has no such dtype');
  }
  const torchName = known.torch.slice('torch.'.length);
  if (known.bits >= 8) return { dtype: torchName, shape };
  const last = shape.at(-1) ?? 1;
  if (last % 2 !== 0) {
    throw refuse(`and shape ${shapeText(shape)} cannot go to an engine worker: torch keeps pairs in a row`);
  }
  return { dtype: torchName, shape: [...shape.slice(0, -1), last / 2] };
}
