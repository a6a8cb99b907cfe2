import type { Answer } from '../../test/engines-real/vllm-server.ts';

/** Of each answer whether it is the same as the other's, words and log-probabilities. */
export function same(some: readonly Answer[], others: readonly Answer[]): boolean[] {
  return some.map(([text, probabilities], i) => {
    const [otherText, otherProbabilities] = others[i]!;
    return text === otherText && probabilities.every((value, k) => value === otherProbabilities[k]);
  });
}

export function count(flags: readonly boolean[]): number {
  return flags.filter(Boolean).length;
}
