import { createHash } from 'node:crypto';
import type { Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import type { Parameter } from './parameter-layout.ts';

/** Copied out of by every parameter; larger ones repeat it. */
const blockBytes = 2 ** 20;

/** Fills parameters with numbers that depend on their names and the rank alone. */
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
  // Twice the same, so that a whole period is there from wherever a parameter begins.
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
