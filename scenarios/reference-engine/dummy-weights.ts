import { createHash } from 'node:crypto';
import type { Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import type { Parameter } from './parameter-layout.ts';

/** Parameters are filled by repeating a block of half this size. */
const blockBytes = 2 ** 20;

/** Fills parameters with pseudo-random bytes that depend on their names and the rank only. */
export async function fillWithDummyWeights(
  memory: Mapping,
  parameters: readonly Parameter[],
  rank: number,
  pool: ThreadPool,
): Promise<void> {
  const block = new Uint32Array(blockBytes / 4);
  const random = createHash('shake256', { outputLength: blockBytes / 2 })
    .update(`dummy weights ${rank}`)
    .digest();
  // The period is stored twice, so that every start offset in it is followed by a whole period.
  const bytes = new Uint8Array(block.buffer);
  bytes.set(random);
  bytes.set(random, blockBytes / 2);
  for (const { name, offset, bytes: parameterBytes } of parameters) {
    const start = createHash('sha256').update(name).digest().readUInt32LE() % (blockBytes / 2);
    for (let done = 0; done < parameterBytes; done += blockBytes / 2) {
      const piece = bytes.subarray(start, start + Math.min(blockBytes / 2, parameterBytes - done));
      await pool.copyIn(piece, memory, offset + done);
    }
  }
}
