import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { DTYPES } from '../../src/checkpoint/dtype.ts';
import { parseHeader, readHeader } from '../../src/checkpoint/safetensors.ts';
import { encodeHeader } from '../../src/checkpoint/safetensors-writer.ts';
import { CheckpointError } from '../../src/errors.ts';
import { f32, fileBytes, temporaryDirectory } from './safetensors-files.ts';

const entry = (shape: readonly number[], begin: number, end: number) => ({
  dtype: 'F32',
  shape,
  data_offsets: [begin, end],
});

function parse(header: string | object, dataBytes: number) {
  const file = fileBytes(header, dataBytes);
  return parseHeader(file.subarray(8, file.length - dataBytes), 'f', file.length);
}

test('tensors come in the order of their data, whatever the order of the header', () => {
  const { names, offsets, bytes } = parse(
    { b: entry([1], 8, 12), a: entry([2], 0, 8), c: entry([], 12, 16) },
    16,
  );
  assert.deepEqual(names, ['a', 'b', 'c']);
  assert.deepEqual(bytes, Float64Array.of(8, 4, 4));
  assert.deepEqual(
    [...offsets].map((offset) => offset - offsets[0]!),
    [0, 8, 12],
  );
});

test('shapes are columns: a scalar has no dimension', () => {
  const header = parse({ a: entry([2, 1], 0, 8), b: entry([], 8, 12), c: entry([1], 12, 16) }, 16);
  assert.deepEqual(header.shapeStarts, Uint32Array.of(0, 2, 2, 3));
  assert.deepEqual(header.dimensions, Float64Array.of(2, 1, 1));
});

test('tensors without bytes are kept, at the ends and between others', () => {
  const header = { z: entry([0], 8, 8), m: entry([0, 5], 4, 4), a: entry([1], 0, 4), k: entry([1], 4, 8) };
  assert.deepEqual(parse(header, 8).names, ['a', 'm', 'k', 'z']);
});

test('white space around the JSON and unknown fields of a tensor are tolerated, as by the reference reader', () => {
  const { names } = parse(
    `\n {"w":{"extra":[{"a":1}],"dtype":"F32","shape":[1],"data_offsets":[0,4]}} \n`,
    4,
  );
  assert.deepEqual(names, ['w']);
});

test('names that mean something to JavaScript are names like any other', () => {
  const names = ['__proto__', 'constructor', '7', 'a:b', 'quote"\\'];
  const fields = names.map(
    (name, at) => `${JSON.stringify(name)}:${JSON.stringify(entry([1], at * 4, at * 4 + 4))}`,
  );
  assert.deepEqual(parse(`{${fields.join(',')}}`, 20).names, names);
  assert.equal(({} as Record<string, unknown>).dtype, undefined);
});

test('metadata is a map of strings', () => {
  const { metadata } = parse('{"__metadata__":{"format":"pt","__proto__":"x"}}', 0);
  assert.deepEqual(
    [...metadata],
    [
      ['format', 'pt'],
      ['__proto__', 'x'],
    ],
  );
});

test('what the writer lays out is what the reader finds, for every dtype of the format', async (context) => {
  const tensors = DTYPES.map(({ name }, index) => ({ name: `t.${index}`, dtype: name, shape: [4, index] }));
  const { header, offsets, totalBytes } = encodeHeader(tensors, new Map([['made', 'hier: ü']]));
  const file = new Uint8Array(totalBytes);
  file.set(header);
  const path = join(temporaryDirectory(context), 'all.safetensors');
  writeFileSync(path, file);
  const { columns: read } = await readHeader(path);
  assert.equal(header.length % 8, 0);
  assert.deepEqual([...read.metadata], [['made', 'hier: ü']]);
  assert.deepEqual(new Set(read.names), new Set(tensors.map(({ name }) => name)));
  for (const [row, name] of read.names.entries()) {
    const index = tensors.findIndex((tensor) => tensor.name === name);
    const { dtype, shape } = tensors[index]!;
    assert.equal(DTYPES[read.dtypes[row]!]!.name, dtype);
    assert.deepEqual([...read.dimensions.subarray(read.shapeStarts[row], read.shapeStarts[row + 1])], shape);
    assert.equal(read.offsets[row], offsets[index]);
    const alignment = Math.max(1, DTYPES[index]!.bits / 8);
    if (Number.isInteger(alignment)) assert.equal(offsets[index]! % alignment, 0, `${dtype} is aligned`);
  }
});

test('the writer refuses a name given twice, an unknown dtype and the name of the metadata', () => {
  assert.throws(() => encodeHeader([f32('a', 1), { name: 'a', dtype: 'I8', shape: [1] }]), CheckpointError);
  assert.throws(() => encodeHeader([{ name: 'a', dtype: 'F33', shape: [1] }]), /"a".*"F33"/);
  assert.throws(() => encodeHeader([f32('__metadata__', 1)]), CheckpointError);
});
