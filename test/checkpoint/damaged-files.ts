import { DTYPES } from '../../src/checkpoint/dtype.ts';
import { encodeHeader } from '../../src/checkpoint/safetensors-writer.ts';
import type { SeededRandom } from '../plan/seeded-random.ts';

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

/** A valid safetensors file with a few random changes to its length, header or end; some stay valid. */
export function damagedFile(random: SeededRandom): Uint8Array {
  let file = validFile(random);
  for (let change = random.whole(1, 3); change > 0 && file.length > 0; change -= 1)
    file = mutated(random, file);
  return file;
}
