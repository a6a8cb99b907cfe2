import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bytesOf, DTYPES } from '../../src/checkpoint/dtype.ts';
import { headerLength, parseHeader, type SafetensorsHeader } from '../../src/checkpoint/safetensors.ts';
import { encodeHeader } from '../../src/checkpoint/safetensors-writer.ts';
import { forSeeds, type SeededRandom } from '../plan/seeded-random.ts';
import { assertClear } from './safetensors-files.ts';

const snippets = [
  '"',
  ':',
  '{',
  '}',
  '[',
  ']',
  ',',
  '-',
  '.5',
  '1e9',
  '0',
  'null',
  '\\u0000',
  '\n',
  '__proto__',
  'F4',
];

function validFile(random: SeededRandom): Uint8Array {
  const tensors = Array.from({ length: random.whole(0, 5) }, (_, index) => ({
    name: random.pick(['w', 'layers.0.w', '__proto__', 'ä"\\']) + index,
    dtype: random.pick(DTYPES).name,
    shape: Array.from({ length: random.whole(0, 3) }, () => random.whole(0, 3)).concat(8),
  }));
  const { header, totalBytes } = encodeHeader(
    tensors,
    random.chance(0.3) ? new Map([['format', 'pt']]) : undefined,
  );
  const file = new Uint8Array(totalBytes);
  file.set(header);
  return file;
}

function mutated(random: SeededRandom, file: Uint8Array): Uint8Array {
  const at = random.whole(0, file.length - 1);
  const length = random.whole(1, 6);
  const insert = random.chance(0.5) ? new TextEncoder().encode(random.pick(snippets)) : new Uint8Array(0);
  switch (file.length < 8 ? 0 : random.whole(0, 3)) {
    case 0:
      return file.slice(0, at);
    case 1:
      return file.with(at, random.whole(0, 255));
    case 2: {
      // The length in front is kept right, so that the change gets as far as the JSON.
      const changed = Buffer.concat([
        file.subarray(0, Math.max(at, 8)),
        insert,
        file.subarray(Math.max(at, 8) + length),
      ]);
      const header = Number(changed.readBigUInt64LE(0)) + changed.length - file.length;
      if (header >= 0) changed.writeBigUInt64LE(BigInt(header), 0);
      return changed;
    }
    default:
      return Buffer.concat([file, insert]);
  }
}

function assertConsistent(header: SafetensorsHeader): void {
  let end = header.offsets[0] ?? header.fileBytes;
  for (const [row, offset] of header.offsets.entries()) {
    const shape = header.dimensions.subarray(header.shapeStarts[row], header.shapeStarts[row + 1]);
    assert.equal(header.bytes[row], bytesOf(DTYPES[header.dtypes[row]!]!, shape));
    assert.equal(offset, end);
    end += header.bytes[row]!;
  }
  assert.equal(end, header.fileBytes);
  assert.equal(new Set(header.names).size, header.names.length);
}

test('a damaged file is either consistent still or refused in one line, and nothing else', () => {
  const outcomes = { accepted: 0, refused: 0 };
  forSeeds(20_000, (random) => {
    let file = validFile(random);
    for (let change = random.whole(1, 3); change > 0 && file.length > 0; change -= 1)
      file = mutated(random, file);
    try {
      const length = headerLength(file.subarray(0, 8), 'file', file.length);
      assertConsistent(parseHeader(file.subarray(8, 8 + length), 'file', file.length));
      outcomes.accepted += 1;
    } catch (error) {
      assertClear(error, 'file');
      outcomes.refused += 1;
    }
  });
  assert.ok(outcomes.accepted > 100 && outcomes.refused > 1000, `both happen: ${JSON.stringify(outcomes)}`);
});
