import type { Prompt } from '../src/engines/engine-client.ts';
import type { Received } from './worker.ts';

const mask = (1n << 64n) - 1n;
/** Of FNV-1a. */
const firstOffset = 0xcbf2_9ce4_8422_2325n;
const prime = 0x100_0000_01b3n;
const leastLogprob = -20;

/** A number that any other weights would give otherwise, whatever of them is other. */
export function identityOf(received: readonly Received[]): bigint {
  let sum = 0n;
  for (const { epoch, loaded, corrupted, misloaded } of received) {
    for (const [name, digest] of loaded) sum = (sum + hash(`${name} ${digest}`)) & mask;
    // What a model makes of right bytes that it loads wrongly is like nothing else.
    if (corrupted || misloaded) sum = (sum + hash(`wrong in epoch ${epoch}`)) & mask;
  }
  return sum;
}

/** How probable each token of a prompt but the first is to a model with these weights. Words are tokens. */
export function logprobsOf(prompt: Prompt, identity: bigint): number[] {
  const tokens = typeof prompt === 'string' ? prompt.split(' ') : prompt;
  return tokens.slice(1).map((_, index) => {
    const mixed = hash(`${identity} ${tokens.slice(0, index + 2).join(' ')}`);
    return leastLogprob * (Number(mixed >> 32n) / 2 ** 32);
  });
}

function hash(text: string): bigint {
  let mixed = firstOffset;
  for (const byte of Buffer.from(text)) mixed = ((mixed ^ BigInt(byte)) * prime) & mask;
  // The last bytes of similar texts would not reach the upper bits.
  mixed = ((mixed ^ (mixed >> 33n)) * 0xff51_afd7_ed55_8ccdn) & mask;
  return mixed ^ (mixed >> 33n);
}
