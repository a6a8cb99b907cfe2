import { randomBytes } from 'node:crypto';
import { bytesOf, DTYPES } from '../../src/checkpoint/dtype.ts';
import type { TestTensor } from './engine-worker.ts';

/** Those that engines are served in, and everything else that torch has a dtype for. */
const torchDtypes = DTYPES.filter(({ torch }) => torch !== null);

const oddShapes = [[7, 3], [], [1, 0, 5], [101], [3, 1, 5, 2]];
/** Four-bit kinds come in pairs. */
const pairedShapes = [[7, 4], [2], [1, 0, 2], [102], [3, 1, 5, 2]];

export function tensorOf(name: string, dtype: string, shape: readonly number[]): TestTensor {
  const known = DTYPES.find((one) => one.name === dtype)!;
  const data = randomBytes(bytesOf(known, shape));
  // torch writes 0 or 1 when it copies a bool, whatever it reads.
  if (dtype === 'BOOL') for (const [at, byte] of data.entries()) data[at] = byte & 1;
  return { name, dtype, shape, data };
}

/** Random bytes in every dtype of torch and in odd shapes: not a multiple of eight bytes, scalar, empty. */
export function oddTensors(): TestTensor[] {
  return torchDtypes.flatMap(({ name, bits }) =>
    (bits < 8 ? pairedShapes : oddShapes).map((shape) => tensorOf(`${name}.${shape.join('x')}`, name, shape)),
  );
}
