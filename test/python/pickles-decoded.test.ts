import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DTYPES } from '../../src/checkpoint/dtype.ts';
import {
  encodeAbort,
  encodeBucket,
  encodeBuffer,
  encodeNone,
} from '../../src/engines/worker-link/checkpoint-engine-messages.ts';
import { missingPython, runPython } from './python-interpreter.ts';

const skip = missingPython('torch');

/** What Python makes of each pickle, as text that says everything of it. */
const decodeAll = `
import json, pickle, sys
import torch.multiprocessing.reductions
def tell(value):
    if isinstance(value, RuntimeError):
        return ["RuntimeError", str(value)]
    if isinstance(value, tuple):
        function, arguments = value
        assert function is torch.multiprocessing.reductions.rebuild_cuda_tensor
        kinds = [torch.Tensor, torch.storage.TypedStorage, torch.uint8]
        return [a.hex() if type(a) is bytes else str(a) if a in kinds else repr(a) for a in arguments]
    if isinstance(value, list):
        assert all(type(d["dtype"]) is torch.dtype and type(d["shape"]) is tuple for d in value)
        assert all(type(d["offset"]) is int and type(d["name"]) is str for d in value)
        return [[d["name"], str(d["dtype"]), list(d["shape"]), d["offset"]] for d in value]
    return value
print(json.dumps([tell(pickle.loads(bytes.fromhex(data))) for data in json.load(sys.stdin)]))
`;

function decode(...pickles: Uint8Array[]): unknown[] {
  return runPython(
    decodeAll,
    pickles.map((pickle) => Buffer.from(pickle).toString('hex')),
  ) as unknown[];
}

test('torch decodes a handle to the arguments of its own rebuild_cuda_tensor', { skip }, () => {
  const handle = Uint8Array.from({ length: 64 }, (_, at) => 255 - at);
  const sizes = [1, 255, 256, 65_535, 65_536, 2 ** 31, 12 * 2 ** 30, 2 ** 45];
  const decoded = decode(...sizes.map((bytes) => encodeBuffer({ handle, bytes })));
  for (const [index, bytes] of sizes.entries()) {
    assert.deepEqual(decoded[index], [
      "<class 'torch.Tensor'>",
      `(${bytes},)`,
      '(1,)',
      '0',
      "<class 'torch.storage.TypedStorage'>",
      'torch.uint8',
      '0',
      Buffer.from(handle).toString('hex'),
      `${bytes}`,
      '0',
      'False',
      '',
      '0',
      '',
      'False',
    ]);
  }
});

test('torch decodes buckets in every dtype that it has', { skip }, () => {
  const tensors = DTYPES.filter(({ torch }) => torch !== null).map(({ name, bits }, index) => ({
    name: `größe.${index}.重み`,
    dtype: name,
    shape: index % 3 === 0 && bits >= 8 ? [] : [index, 0, 2 ** 20, 6],
    offset: 256 * index * 2 ** index,
  }));
  const [bucket, empty] = decode(encodeBucket(tensors), encodeBucket([]));
  assert.deepEqual(
    bucket,
    tensors.map(({ name, dtype, shape, offset }) => {
      const torchName = DTYPES.find((one) => one.name === dtype)!.torch;
      return [name, torchName, dtype === 'F4' ? [...shape.slice(0, -1), 3] : shape, offset];
    }),
  );
  assert.deepEqual(empty, []);
});

test('torch decodes a bucket of thousands of tensors', { skip }, () => {
  const tensors = Array.from({ length: 5_000 }, (_, index) => ({
    name: `model.layers.${index}.mlp.experts.${index}.down_proj.weight`,
    dtype: 'BF16',
    shape: [index, 4_096],
    offset: index * 2 ** 24,
  }));
  const [bucket] = decode(encodeBucket(tensors));
  assert.deepEqual(
    bucket,
    tensors.map(({ name, shape, offset }) => [name, 'torch.bfloat16', shape, offset]),
  );
});

test('Python decodes the end of an exchange, and an abort with its reason', { skip }, () => {
  assert.deepEqual(decode(encodeNone(), encodeAbort("rank 3 died: 'größe'\n")), [
    null,
    ['RuntimeError', "rank 3 died: 'größe'\n"],
  ]);
});
