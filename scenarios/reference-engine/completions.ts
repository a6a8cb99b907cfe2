/** The vocabulary of the reference engine. */
const vocabulary = (
  'the of and to in is that it was for on are as with his they at be this from have or by one had not but what all ' +
  'were when we there can an your which their said if do will each about how up out them then she many some so these'
).split(' ');

/** The word of each step, which is determined by the sum of all workers' partial sums. */
export function pickWords(partialSums: readonly (readonly number[])[]): string[] {
  const steps = partialSums[0]?.length ?? 0;
  return Array.from({ length: steps }, (_, step) => {
    const sum = partialSums.reduce((total, sums) => (total + sums[step]!) >>> 0, 0);
    return vocabulary[scatter(sum) % vocabulary.length]!;
  });
}

/** The finalizer of MurmurHash3: any change of the sum changes about half of the bits. */
function scatter(sum: number): number {
  let mixed = sum;
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85eb_ca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2_ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

export interface Completion {
  readonly prompt: string;
  readonly words: readonly string[];
  /** Versions of the weights that produced it: more than one if an update happened while a pause kept it. */
  readonly versions: ReadonlySet<string>;
  /** `length`, or `abort` if a pause ended it. */
  readonly finishReason: 'length' | 'abort';
}

/** The response body, in vLLM's format. */
export function completionBody(options: {
  readonly id: string;
  readonly model: string;
  readonly completions: readonly Completion[];
  /** Seconds since 1970. */
  readonly created: number;
}): object {
  const { id, model, completions, created } = options;
  const promptTokens = completions.reduce((sum, { prompt }) => sum + countWords(prompt), 0);
  const versions = new Set(completions.flatMap((completion) => [...completion.versions]));
  const completionTokens = completions.reduce((sum, { words }) => sum + words.length, 0);
  return {
    id: `cmpl-${id}`,
    object: 'text_completion',
    created,
    model,
    system_fingerprint: [...versions].join('+'),
    choices: completions.map(({ words, finishReason }, index) => ({
      index,
      text: words.map((word) => ` ${word}`).join(''),
      logprobs: null,
      finish_reason: finishReason,
      stop_reason: null,
    })),
    usage: {
      prompt_tokens: promptTokens,
      completion_tokens: completionTokens,
      total_tokens: promptTokens + completionTokens,
    },
  };
}

function countWords(text: string): number {
  return text.match(/\S+/g)?.length ?? 0;
}
