/** Tensors of torch and numpy, as a daemon's client writes them, are what safetensors reads. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { missingPython, runPython } from './python-interpreter.ts';

const program = `
import json, os, sys
given = json.load(sys.stdin)
sys.path.insert(0, given["package"])
import numpy, torch
from safetensors.torch import load_file
from weightcast.client_errors import HostMemoryError, UsageError
from weightcast.tensor_files import write_tensors

bits = torch.arange(64, dtype=torch.int16).reshape(4, 16)
torches = {
    str(dtype): bits.view(dtype) if dtype.itemsize == 2 else bits.to(dtype)
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.int64, torch.uint8, torch.bool)
}
torches["fp8"] = torch.arange(8).to(torch.float8_e4m3fn)
torches["fp4"] = torch.arange(8, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
torches["transposed"] = torch.arange(12.0).reshape(3, 4).T
torches["sliced"] = torch.arange(12.0)[::3]
torches["parameter"] = torch.nn.Parameter(torch.ones(2, 2))
torches["scalar"] = torch.tensor(3.5)
torches["empty"] = torch.zeros(0, 3)
arrays = {
    "numpy": numpy.arange(6, dtype="<f4").reshape(2, 3),
    "strided": numpy.arange(12, dtype="i8")[::2],
    "fortran": numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3)),
    "read-only": numpy.frombuffer(b"abcd", "u1"),
    "zero": numpy.array(1.5),
}
path = write_tensors(given["directory"], {**torches, **arrays})
read = load_file(path)
expected = {**torches, **{name: torch.from_numpy(array.copy()) for name, array in arrays.items()}}
assert read.keys() == expected.keys()
for name, tensor in expected.items():
    assert read[name].dtype == tensor.dtype and read[name].shape == tensor.shape, name
    assert torch.equal(read[name].reshape(-1).view(torch.uint8), tensor.detach().contiguous().reshape(-1).view(torch.uint8)), name
assert os.stat(path).st_mode & 0o777 == 0o600
os.unlink(path)

messages = []
for tensor in (numpy.arange(3, dtype=">f4"), numpy.array(["a"]), "text", torch.zeros(2).to_sparse()):
    try:
        write_tensors(given["directory"], {"w": tensor})
    except UsageError as error:
        messages.append(str(error))
assert os.listdir(given["directory"]) == [], "nothing is left behind"
print(json.dumps(messages))
`;

test('every kind of tensor is written whole; what is none is refused by name', {
  skip: missingPython('torch', 'numpy', 'safetensors'),
}, (t) => {
  const directory = temporaryDirectory(t);
  const messages = runPython(program, { directory, package: fileURLToPath(new URL('python', packageRoot)) });
  assert.equal((messages as string[]).length, 4, String(messages));
  for (const message of messages as string[]) assert.match(message, /^tensor w\b/);
});
