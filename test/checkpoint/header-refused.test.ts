import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { readHeader } from '../../src/checkpoint/safetensors.ts';
import { assertClear, fileBytes, temporaryDirectory } from './safetensors-files.ts';

const tensor = (shape: unknown, span: unknown, dtype: unknown = 'F32') => ({
  dtype,
  shape,
  data_offsets: span,
});
const good = tensor([2], [0, 8]);

const refused: readonly (readonly [title: string, bytes: Uint8Array, ...words: (string | RegExp)[]])[] = [
  ['an empty file', new Uint8Array(0), /is empty/],
  ['a file shorter than the length of its header', new Uint8Array(7), /truncated/],
  [
    'a header longer than the file',
    fileBytes({ w: good }, 8).subarray(0, 30),
    /truncated: its header has \d+ bytes/,
  ],
  [
    'a header over the limit of the format',
    Uint8Array.of(0x01, 0xe1, 0xf5, 0x05, 0, 0, 0, 0),
    /100000001 bytes is over the limit/,
  ],
  ['a header length near 2^64', new Uint8Array(16).fill(0xff), /over the limit/],
  ['a header that is not UTF-8', Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe), /not UTF-8/],
  ['a header with a byte order mark', fileBytes('\ufeff{}', 0), /not JSON/],
  ['a header that is not JSON', fileBytes('{"w":\n\n', 0), /not JSON/],
  ['a header that is an array', fileBytes('[]', 0), /not a JSON object/],
  ['a header that is null', fileBytes('null', 0), /not a JSON object/],
  ['a tensor that is no object', fileBytes({ w: 3 }, 0), '"w"', /object/],
  ['a tensor that is null', fileBytes({ w: null }, 0), '"w"', /object/],
  ['a tensor without dtype', fileBytes({ w: { shape: [2], data_offsets: [0, 8] } }, 8), '"w"', /no dtype/],
  ['an unknown dtype', fileBytes({ w: tensor([2], [0, 8], 'F31') }, 8), '"w"', 'unknown dtype "F31"'],
  [
    'a dtype of Object.prototype',
    fileBytes({ w: tensor([2], [0, 8], 'toString') }, 8),
    'unknown dtype "toString"',
  ],
  ['a missing shape', fileBytes({ w: { dtype: 'F32', data_offsets: [0, 8] } }, 8), '"w"', /shape/],
  ['a negative dimension', fileBytes({ w: tensor([-2], [0, 8]) }, 8), '"w"', /shape/],
  ['two negative dimensions', fileBytes({ w: tensor([-1, -2], [0, 8]) }, 8), '"w"', /shape/],
  [
    'a dimension of minus zero',
    fileBytes('{"w":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}', 0),
    '"w"',
  ],
  ['a fractional dimension', fileBytes({ w: tensor([0.5, 4], [0, 8]) }, 8), '"w"', /shape/],
  ['a dimension that is a string', fileBytes({ w: tensor(['2'], [0, 8]) }, 8), '"w"', /shape/],
  ['a dimension over 2^53', fileBytes({ w: tensor([2 ** 53], [0, 8]) }, 8), '"w"', /shape/],
  [
    'a shape whose size overflows',
    fileBytes({ w: tensor([2 ** 40, 2 ** 40], [0, 8]) }, 8),
    '"w"',
    /too large/,
  ],
  [
    'a shape so large that its size is infinite',
    fileBytes({ w: tensor(Array(99).fill(2 ** 50), [0, 8]) }, 8),
    '"w"',
  ],
  [
    'four-bit elements that end within a byte',
    fileBytes({ w: tensor([3], [0, 2], 'F4') }, 2),
    '"w"',
    /whole bytes/,
  ],
  ['missing offsets', fileBytes({ w: { dtype: 'F32', shape: [2] } }, 8), '"w"', /data_offsets/],
  ['three offsets', fileBytes({ w: tensor([2], [0, 8, 8]) }, 8), '"w"', /data_offsets/],
  ['negative offsets', fileBytes({ w: tensor([2], [-8, 0]) }, 8), '"w"', /data_offsets/],
  [
    'offsets that end before they begin',
    fileBytes({ w: tensor([2], [8, 0]) }, 8),
    '"w"',
    /end before they begin/,
  ],
  [
    'a size that contradicts shape and dtype',
    fileBytes({ w: tensor([3], [0, 8]) }, 8),
    '"w"',
    /takes 12 bytes/,
  ],
  ['data shorter than the offsets', fileBytes({ w: good }, 7), '"w"', /truncated/],
  [
    'offsets out of range',
    fileBytes({ v: good, w: tensor([2], [800, 808]) }, 16),
    '"w"',
    /byte 808 of the data/,
  ],
  [
    'tensors that overlap',
    fileBytes({ v: good, w: tensor([2], [4, 12]) }, 12),
    '"v"',
    '"w"',
    /overlap at byte 4/,
  ],
  ['two tensors at the same offsets', fileBytes({ v: good, w: good }, 8), '"v"', '"w"', /overlap/],
  ['a hole between tensors', fileBytes({ v: good, w: tensor([2], [12, 20]) }, 20), '"w"', /hole: 4 bytes/],
  ['a hole before the first tensor', fileBytes({ w: tensor([2], [4, 12]) }, 12), '"w"', /hole/],
  ['bytes after the last tensor', fileBytes({ w: good }, 11), /3 bytes at the end/],
  ['data without tensors', fileBytes({}, 1), /1 bytes at the end/],
  [
    'a tensor that is there twice',
    fileBytes(`{"w":${JSON.stringify(good)},"w":${JSON.stringify(good)}}`, 8),
    'the key "w" twice',
  ],
  [
    'a tensor that is there twice, spelled differently',
    fileBytes(`{"a:b\\"":${JSON.stringify(good)},"\\u0061:b\\"":${JSON.stringify(good)}}`, 8),
    'the key "a:b\\"" twice',
  ],
  [
    'a field that is there twice',
    fileBytes('{"w":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}', 8),
    'the key "shape" twice',
  ],
  ['metadata that is no object', fileBytes({ __metadata__: ['x'], w: good }, 8), /__metadata__/],
  ['metadata with a number', fileBytes({ __metadata__: { steps: 3 }, w: good }, 8), '"steps"', /strings/],
  [
    'a name that is half a surrogate pair',
    fileBytes(`{"\\ud800":${JSON.stringify(good)}}`, 8),
    /not Unicode/,
  ],
  ['a name that would break the line', fileBytes({ 'a\nb\u2028\u001b[2J': 1 }, 0), 'a\\nb\\u2028\\u001b[2J'],
  ['a name of a megabyte', fileBytes({ ['x'.repeat(1e6)]: 1 }, 0), /^.{0,600}$/u],
];

for (const [title, bytes, ...words] of refused) {
  test(`${title} is refused in one line that names the file`, async (context) => {
    const path = join(temporaryDirectory(context), 'model.safetensors');
    writeFileSync(path, bytes);
    await assert.rejects(readHeader(path), (error) => assertClear(error, path, ...words));
  });
}

test('a directory in place of a file is refused', async (context) => {
  const directory = temporaryDirectory(context);
  await assert.rejects(readHeader(directory), (error) => assertClear(error, directory, /is a directory/));
});

test('a device in place of a file is refused, and not waited for', async () => {
  await assert.rejects(readHeader('/dev/null'), (error) =>
    assertClear(error, '/dev/null', /not a regular file/),
  );
});
