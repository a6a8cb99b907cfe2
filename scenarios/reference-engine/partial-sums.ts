import { createHash } from 'node:crypto';
import type { WorkerParameters } from './worker-parameters.ts';

const wordBytes = 4;

/**
 * A worker's share in the words that follow a prompt: for each, the sum (mod 2^32) of a few words of its parameters,
 * at places that the prompt and the number of the step decide. `from` is the first step's.
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

/** `place` from 0 for the first word to just below 1 for the last. */
function wordAt(parameters: WorkerParameters, place: number): number {
  const words = Math.floor(parameters.bytes / wordBytes);
  if (words === 0) return parameters.read(0, 1).readUInt8();
  return parameters.read(Math.floor(place * words) * wordBytes, wordBytes).readUInt32LE();
}
