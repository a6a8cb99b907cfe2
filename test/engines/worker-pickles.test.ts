import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { DTYPES } from '../../src/checkpoint/dtype.ts';
import {
  encodeAbort,
  encodeBucket,
  encodeBuffer,
  encodeNone,
} from '../../src/engines/worker-link/checkpoint-engine-messages.ts';
import { PickleWriter } from '../../src/engines/worker-link/pickle-writer.ts';
import { packageRoot } from '../../src/package-root.ts';

interface Example {
  readonly what: 'ipc handle' | 'bucket' | 'none' | 'abort';
  readonly pickle: string;
  readonly handle?: string;
  readonly bytes?: number;
  readonly message?: string;
  readonly tensors?: readonly { name: string; dtype: string; shape: number[]; offset: number }[];
}

const file = new URL('test/engines/fixtures/worker-pickles.json', packageRoot);
const { examples } = JSON.parse(readFileSync(file, 'utf8')) as { examples: Example[] };
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

function encode(example: Example): Uint8Array {
  switch (example.what) {
    case 'ipc handle':
      return encodeBuffer({ handle: Buffer.from(example.handle!, 'hex'), bytes: example.bytes! });
    case 'bucket':
      return encodeBucket(
        example.tensors!.map((tensor) => ({
          ...tensor,
          dtype: DTYPES.find(({ torch }) => torch === `torch.${tensor.dtype}`)!.name,
        })),
      );
    case 'none':
      return encodeNone();
    case 'abort':
      return encodeAbort(example.message!);
  }
}

for (const [index, example] of examples.entries()) {
  test(`example ${index}, ${example.what}, is pickled exactly as torch decodes it`, () => {
    assert.equal(hex(encode(example)), example.pickle);
  });
}

test('integers are written in the fewest bytes that keep their sign', () => {
  const pickles: [number, string][] = [
    [0, '4b00'],
    [255, '4bff'],
    [256, '4d0001'],
    [65_535, '4dffff'],
    [65_536, '8a03000001'],
    [0x7f_ff_ff, '8a03ffff7f'],
    [0x80_00_00, '8a0400008000'],
    [2 ** 31 - 1, '8a04ffffff7f'],
    [2 ** 31, '8a050000008000'],
    [Number.MAX_SAFE_INTEGER, '8a07ffffffffffff1f'],
  ];
  for (const [value, expected] of pickles) {
    assert.equal(hex(new PickleWriter().count(value).end()), `8004${expected}2e`);
  }
});

test('long names and long handles are not truncated', () => {
  const long = 'ü'.repeat(70_000);
  const text = hex(new PickleWriter().text(long).end());
  assert.equal(text, `800458${'e0220200'}${Buffer.from(long).toString('hex')}2e`);
  const handle = Buffer.alloc(300, 7);
  assert.equal(hex(new PickleWriter().bytes(handle).end()), `8004422c010000${handle.toString('hex')}2e`);
});

const refused: [string, string, number[], RegExp][] = [
  ['a dtype that torch has not', 'F6_E2M3', [4, 4], /"layers\.0\.w" of dtype F6_E2M3 .*torch has no such/],
  ['a dtype that nobody has', 'F99', [1], /"layers\.0\.w" of dtype F99 .*torch has no such/],
  ['pairs that begin in one row and end in the next', 'F4', [2, 3], /"layers\.0\.w" .*shape \[2, 3\]/],
];
for (const [what, dtype, shape, message] of refused) {
  test(`a tensor that torch cannot represent is refused with its name: ${what}`, () => {
    const tensors = [{ name: 'layers.0.w', dtype, shape, offset: 0 }];
    assert.throws(() => encodeBucket(tensors), { name: 'CheckpointError', message });
  });
}
