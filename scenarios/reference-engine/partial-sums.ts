import { createHash } from 'node:crypto';
import type { WorkerParameters } from './worker-parameters.ts';

const wordBytes = 4;

/**
 * A worker's contribution to the words that follow a prompt: for each step, the sum (mod 2^32) of a few 32-bit words of
 * its parameters, at places determined by the prompt and the step. `from` is the number of the first step.
 */
export function partialSums(
  parameters: WorkerParameters,
  { prompt, from, steps }: { readonly prompt: string; readonly from: number; readonly steps: number },
): number[] {
  return Array.from({ length: steps }, (_, step) => {
    const places = createHash('sha256')
      .update(`${from + step} ${prompt}`)
      .digest();
    let sum = 0;
    for (let at = 0; at < places.length; at += wordBytes) {
      sum = (sum + wordAt(parameters, places.readUInt32LE(at) / 2 ** 32)) >>> 0;
    }
    return sum;
  });
}

/** `place`: position in the parameters, in [0, 1). */
function wordAt(parameters: WorkerParameters, place: number): number {
  const words = Math.floor(parameters.bytes / wordBytes);
  if (words === 0) return parameters.read(0, 1).readUInt8();
  return parameters.read(Math.floor(place * words) * wordBytes, wordBytes).readUInt32LE();
}
