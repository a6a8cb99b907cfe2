/** The vocabulary of the reference engine. */
const vocabulary = (
  'the of and to in is that it was for on are as with his they at be this from have or by one had not but what all ' +
  'were when we there can an your which their said if do will each about how up out them then she many some so these'
).split(' ');

/** The word of each step, which is determined by the sum of all workers' partial sums. */
export function pickWords(partialSums: readonly (readonly number[])[]): string[] {
  return sumsOf(partialSums).map((sum) => vocabulary[scatter(sum) % vocabulary.length]!);
}

/** Natural logarithms of probabilities; the least probable token has e^-20. */
const leastLogprob = -20;

/** The log-probability of each token, which is determined by the sum of all workers' partial sums. */
export function logprobsOf(partialSums: readonly (readonly number[])[]): number[] {
  return sumsOf(partialSums).map((sum) => (leastLogprob * scatter(sum)) / 2 ** 32);
}

function sumsOf(partialSums: readonly (readonly number[])[]): number[] {
  const steps = partialSums[0]?.length ?? 0;
  return Array.from({ length: steps }, (_, step) =>
    partialSums.reduce((total, sums) => (total + sums[step]!) >>> 0, 0),
  );
}

/** The finalizer of MurmurHash3: any change of the sum changes about half of the bits. */
function scatter(sum: number): number {
  let mixed = sum;
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85eb_ca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2_ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

/** Tokens of a prompt, and how probable the engine finds each of them but the first. */
export interface PromptLogprobs {
  readonly tokens: readonly number[];
  readonly logprobs: readonly number[];
}

export interface Completion {
  /** Its text, or what was asked of it. */
  readonly prompt: string | PromptLogprobs;
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
  const promptTokens = completions.reduce((sum, { prompt }) => sum + countTokens(prompt), 0);
  const versions = new Set(completions.flatMap((completion) => [...completion.versions]));
  const completionTokens = completions.reduce((sum, { words }) => sum + words.length, 0);
  return {
    id: `cmpl-${id}`,
    object: 'text_completion',
    created,
    model,
    system_fingerprint: [...versions].join('+'),
    choices: completions.map(({ prompt, words, finishReason }, index) => ({
      index,
      text: words.map((word) => ` ${word}`).join(''),
      logprobs: null,
      prompt_logprobs: typeof prompt === 'string' ? null : logprobsBody(prompt),
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

/** One entry per token, by its number. */
function logprobsBody({ tokens, logprobs }: PromptLogprobs): (object | null)[] {
  const entries = logprobs.map((logprob, index) => {
    const token = tokens[index + 1]!;
    return { [token]: { logprob, rank: 1, decoded_token: ` ${token}` } };
  });
  return [null, ...entries];
}

function countTokens(prompt: Completion['prompt']): number {
  return typeof prompt === 'string' ? (prompt.match(/\S+/g)?.length ?? 0) : prompt.tokens.length;
}
