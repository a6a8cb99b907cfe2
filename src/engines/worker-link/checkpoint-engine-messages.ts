import { PickleWriter } from './pickle-writer.ts';
import { torchForm } from './torch-form.ts';
import type { LinkBuffer, LinkTensor } from './worker-link.ts';

/**
 * The requests to a worker of checkpoint-engine (`checkpoint_engine/worker.py`, `update_weights_from_ipc`). Each request
 * is a pickle; each reply is raw bytes: empty for success, otherwise a UTF-8 traceback.
 */

/** A tensor as `torch.multiprocessing` sends it: the function that rebuilds it, and its fifteen arguments. */
export function encodeBuffer({ handle, bytes }: LinkBuffer): Uint8Array {
  const writer = new PickleWriter().global('torch.multiprocessing.reductions', 'rebuild_cuda_tensor');
  writer.mark();
  writer.global('torch', 'Tensor').count(bytes).tuple1().count(1).tuple1().count(0);
  // The worker replaces the 0 by its own device index.
  writer.global('torch.storage', 'TypedStorage').global('torch', 'uint8').count(0);
  writer.bytes(handle).count(bytes).count(0).false();
  // No reference counter and no event: the rank keeps the memory until the worker has dropped it, and announces a bucket
  // only when its bytes are in place.
  writer.bytes(new Uint8Array()).count(0).bytes(new Uint8Array()).false();
  return writer.tuple().tuple2().end();
}

/** Throws a `CheckpointError` that names the first tensor for which torch has no dtype. */
export function encodeBucket(tensors: readonly LinkTensor[]): Uint8Array {
  const writer = new PickleWriter().list().mark();
  for (const tensor of tensors) {
    const { dtype, shape } = torchForm(tensor);
    writer.dict().mark();
    writer.text('name').text(tensor.name);
    writer.text('dtype').global('torch', dtype);
    writer.text('shape').mark();
    for (const size of shape) writer.count(size);
    writer.tuple();
    writer.text('offset').count(tensor.offset);
    writer.items();
  }
  return writer.appends().end();
}

/** Sent twice: the first one makes the worker drop the buffer, the second one run its post-hook. */
export function encodeNone(): Uint8Array {
  return new PickleWriter().none().end();
}

/** A `RuntimeError`, which the worker raises. */
export function encodeAbort(reason: string): Uint8Array {
  return new PickleWriter().global('builtins', 'RuntimeError').text(reason).tuple1().reduce().end();
}
