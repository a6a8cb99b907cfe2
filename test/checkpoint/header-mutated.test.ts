import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bytesOf, DTYPES } from '../../src/checkpoint/dtype.ts';
import { headerLength, parseHeader, type SafetensorsHeader } from '../../src/checkpoint/safetensors.ts';
import { forSeeds } from '../plan/seeded-random.ts';
import { damagedFile } from './damaged-files.ts';
import { assertClear } from './safetensors-files.ts';

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
  forSeeds(10_000, (random) => {
    const file = damagedFile(random);
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
