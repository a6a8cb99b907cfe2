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
 * The dtype and shape under which an engine worker, which knows only torch's dtypes, gets a tensor of a safetensors file.
 * torch packs four-bit elements in pairs (`float4_e2m1fn_x2`), so the last dimension is half of the file's, as in
 * safetensors' own loader for torch.
 *
 * Throws a `CheckpointError` that names the tensor if torch has no dtype for it.
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
    throw refuse(
      `and shape ${shapeText(shape)} cannot go to an engine worker: torch packs pairs of elements, and the last dimension is odd`,
    );
  }
  return { dtype: torchName, shape: [...shape.slice(0, -1), last / 2] };
}
