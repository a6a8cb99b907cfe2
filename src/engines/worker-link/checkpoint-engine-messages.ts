import { PickleWriter } from './pickle-writer.ts';
import { torchForm } from './torch-form.ts';
import type { LinkBuffer, LinkTensor } from './worker-link.ts';

/**
 * What a rank says to a worker of checkpoint-engine (`checkpoint_engine/worker.py`, `update_weights_from_ipc`). Each
 * request is a pickle; each reply is raw bytes: none for success, else a UTF-8 traceback.
 */

/** A tensor as `torch.multiprocessing` sends it: the function that rebuilds it, and its fifteen arguments. */
export function encodeBuffer({ handle, bytes }: LinkBuffer): Uint8Array {
  const writer = new PickleWriter().global('torch.multiprocessing.reductions', 'rebuild_cuda_tensor');
  writer.mark();
  writer.global('torch', 'Tensor').count(bytes).tuple1().count(1).tuple1().count(0);
  // The worker puts its own device index in place of the 0.
  writer.global('torch.storage', 'TypedStorage').global('torch', 'uint8').count(0);
  writer.bytes(handle).count(bytes).count(0).false();
  // Neither a reference counter nor an event: this side keeps the memory until the worker has dropped it, and sends
  // nothing before the bytes are there.
  writer.bytes(new Uint8Array()).count(0).bytes(new Uint8Array()).false();
  return writer.tuple().tuple2().end();
}

/** Throws a CheckpointError that names the first tensor which torch has no dtype for. */
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

/** The first makes the worker drop the buffer, the second run its post-hook. */
export function encodeNone(): Uint8Array {
  return new PickleWriter().none().end();
}

/** A `RuntimeError`, which the worker raises. */
export function encodeAbort(reason: string): Uint8Array {
  return new PickleWriter().global('builtins', 'RuntimeError').text(reason).tuple1().reduce().end();
}
