import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bytesOf, DTYPES, dtypeIndex } from '../../src/checkpoint/dtype.ts';
import { CheckpointError } from '../../src/errors.ts';

const dtype = (name: string) => DTYPES[dtypeIndex(name)]!;

test('every dtype of the format has its size in bits', () => {
  const expected = {
    4: ['F4'],
    6: ['F6_E2M3', 'F6_E3M2'],
    8: ['BOOL', 'U8', 'I8', 'F8_E5M2', 'F8_E4M3', 'F8_E8M0', 'F8_E4M3FNUZ', 'F8_E5M2FNUZ'],
    16: ['I16', 'U16', 'F16', 'BF16'],
    32: ['I32', 'U32', 'F32'],
    64: ['C64', 'F64', 'I64', 'U64'],
  };
  for (const [bits, names] of Object.entries(expected)) {
    for (const name of names) assert.equal(dtype(name).bits, Number(bits), name);
  }
  assert.equal(DTYPES.length, Object.values(expected).flat().length);
});

test('a name that is no dtype has no index', () => {
  for (const name of ['', 'f32', 'F8', '__proto__']) assert.equal(dtypeIndex(name), -1);
});

test('bytes are elements times bits, packed', () => {
  assert.equal(bytesOf(dtype('BF16'), [3, 5]), 30);
  assert.equal(bytesOf(dtype('F32'), []), 4);
  assert.equal(bytesOf(dtype('F4'), [3, 2]), 3);
  assert.equal(bytesOf(dtype('F6_E3M2'), [4]), 3);
  assert.equal(bytesOf(dtype('I64'), [7, 0]), 0);
  assert.equal(bytesOf(dtype('F64'), [0, 2 ** 52, 2 ** 52]), 0);
});

test('a tensor that ends within a byte, or beyond what a number can count, has no size', () => {
  assert.throws(() => bytesOf(dtype('F4'), [3]), CheckpointError);
  assert.throws(() => bytesOf(dtype('F6_E2M3'), [2]), CheckpointError);
  assert.throws(() => bytesOf(dtype('U8'), [2 ** 30, 2 ** 30]), CheckpointError);
});

test('a negative or fractional dimension has no size, even where the product is a whole number', () => {
  assert.throws(() => bytesOf(dtype('U8'), [-2, -4]), CheckpointError);
  assert.throws(() => bytesOf(dtype('U8'), [0.5, 4]), CheckpointError);
});
