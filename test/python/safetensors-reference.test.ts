import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bytesOf, DTYPES } from '../../src/checkpoint/dtype.ts';
import { headerLength, parseHeader, type SafetensorsHeader } from '../../src/checkpoint/safetensors.ts';
import { encodeHeader } from '../../src/checkpoint/safetensors-writer.ts';
import { damagedFile } from '../checkpoint/damaged-files.ts';
import { SeededRandom } from '../plan/seeded-random.ts';
import { missingPython, runPython } from './python-interpreter.ts';

const skip = missingPython('safetensors');

const tensors = DTYPES.map(({ name }, index) => ({
  name: `t.${index}.${name}`,
  dtype: name,
  shape: [index % 3, 4, 2],
}));
const sizes = DTYPES.map((dtype, index) => bytesOf(dtype, tensors[index]!.shape));
const contentOf = (index: number) => Buffer.alloc(sizes[index]!, index + 1);

/** Reads a file the way the reference does: `{name: [dtype, shape, hex]}`. */
const readAll = `
import json, sys, safetensors
data = bytes.fromhex(json.load(sys.stdin))
print(json.dumps({n: [t["dtype"], t["shape"], bytes(t["data"]).hex()] for n, t in safetensors.deserialize(data)}))
`;

const writeAll = `
import ctypes, json, sys, safetensors
specs, keep = {}, []
for name, dtype, shape, data in json.load(sys.stdin):
    buffer = ctypes.create_string_buffer(bytes.fromhex(data), max(1, len(data) // 2))
    keep.append(buffer)
    specs[name] = safetensors.TensorSpec(
        dtype=dtype, shape=shape, data_ptr=ctypes.addressof(buffer), data_len=len(data) // 2)
print(json.dumps(bytes(safetensors.serialize(specs, {"format": "pt"})).hex()))
`;

/** For each file whether the reference accepts it. */
const judgeAll = `
import json, sys, safetensors
def accepts(data):
    try:
        safetensors.deserialize(data)
        return True
    except safetensors.SafetensorError:
        return False
print(json.dumps([accepts(bytes.fromhex(data)) for data in json.load(sys.stdin)]))
`;

function parse(file: Uint8Array): SafetensorsHeader {
  const length = headerLength(file.subarray(0, 8), 'file', file.length);
  return parseHeader(file.subarray(8, 8 + length), 'file', file.length);
}

test('the reference reads what we write, in every dtype', { skip }, () => {
  const { header, offsets, totalBytes } = encodeHeader(tensors, new Map([['format', 'pt']]));
  const file = Buffer.alloc(totalBytes);
  file.set(header);
  for (const [index, offset] of offsets.entries()) file.set(contentOf(index), offset);
  const expected = tensors.map(({ name, dtype, shape }, index) => [
    name,
    [dtype, shape, contentOf(index).toString('hex')],
  ]);
  assert.deepEqual(runPython(readAll, file.toString('hex')), Object.fromEntries(expected));
});

test('we read what the reference writes, and write the same header', { skip }, () => {
  // The reference writes no six-bit kinds from Python, and takes four-bit ones in torch's shape, two to an element.
  const writable = tensors.flatMap((tensor, index) => {
    const { torch, name } = DTYPES[index]!;
    if (torch === null) return [];
    const shape = name === 'F4' ? [...tensor.shape.slice(0, -1), tensor.shape.at(-1)! / 2] : tensor.shape;
    return [
      {
        tensor,
        python: [tensor.name, torch.slice('torch.'.length), shape, contentOf(index).toString('hex')],
      },
    ];
  });
  const file = Buffer.from(
    runPython(
      writeAll,
      writable.map(({ python }) => python),
    ) as string,
    'hex',
  );
  const read = parse(file);
  assert.equal(read.names.length, writable.length);
  for (const [row, name] of read.names.entries()) {
    const index = tensors.findIndex((tensor) => tensor.name === name);
    assert.equal(read.dtypes[row], index);
    assert.deepEqual(
      [...read.dimensions.subarray(read.shapeStarts[row], read.shapeStarts[row + 1])],
      tensors[index]!.shape,
    );
    assert.deepEqual(
      file.subarray(read.offsets[row], read.offsets[row]! + read.bytes[row]!),
      contentOf(index),
    );
  }
  const own = encodeHeader(
    writable.map(({ tensor }) => tensor),
    new Map([['format', 'pt']]),
  );
  assert.deepEqual(file.subarray(0, own.header.length).toString(), Buffer.from(own.header).toString());
});

test('of damaged files we accept none that the reference refuses', { skip }, () => {
  const files = Array.from({ length: 20_000 }, (_, seed) => damagedFile(new SeededRandom(seed + 1)));
  const reference = runPython(
    judgeAll,
    files.map((file) => Buffer.from(file).toString('hex')),
  ) as boolean[];
  let accepted = 0;
  for (const [seed, file] of files.entries()) {
    try {
      parse(file);
    } catch {
      continue;
    }
    accepted += 1;
    // Whole numbers may be spelled 1e9 or 2.0 for us: JavaScript's parser does not tell.
    if (/\d[.eE]/.test(Buffer.from(file).toString('latin1'))) continue;
    assert.ok(reference[seed], `with seed ${seed + 1}: ${Buffer.from(file).toString('latin1')}`);
  }
  assert.ok(accepted > 100);
});
