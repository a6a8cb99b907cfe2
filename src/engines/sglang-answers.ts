import { EngineError } from '../errors.ts';
import type { CallOptions, Prompt, RankAnswers } from './engine-client.ts';
import type { EngineHttp } from './engine-http.ts';

/**
 * The log-probabilities that an SGLang gives to the tokens of prompts, from each of its data-parallel ranks. Rejects as
 * `EngineHttp.object` does, and with `EngineError` for an answer without them.
 */
export async function sglangAnswers(
  http: EngineHttp,
  prompts: readonly Prompt[],
  options: CallOptions,
): Promise<RankAnswers[]> {
  if (prompts.length === 0) await http.object('GET', '/v1/models', null, options);
  const ranks = await dataParallelRanks(http, options);
  return Promise.all(
    ranks.map(async (rank) => {
      const asked = prompts.map((prompt) => answerOf(http, prompt, rank, options));
      return { dataParallelRank: rank, logprobs: await Promise.all(asked) };
    }),
  );
}

/** Null, for any rank, where there is one, or the engine does not say how many there are. */
async function dataParallelRanks(http: EngineHttp, options: CallOptions): Promise<(number | null)[]> {
  const size =
    (await http.valueOf('/server_info', 'dp_size', options)) ??
    (await http.valueOf('/get_server_info', 'dp_size', options));
  return typeof size === 'number' && size > 1 ? [...Array(size).keys()] : [null];
}

async function answerOf(
  http: EngineHttp,
  prompt: Prompt,
  rank: number | null,
  options: CallOptions,
): Promise<number[]> {
  const body = {
    ...(typeof prompt === 'string' ? { text: prompt } : { input_ids: prompt }),
    sampling_params: { max_new_tokens: 1, temperature: 0 },
    return_logprob: true,
    // From the first token on: SGLang then takes nothing out of its cache.
    logprob_start_len: 0,
    ...(rank !== null && { data_parallel_rank: rank }),
  };
  const { meta_info: info } = await http.object('POST', '/generate', body, options);
  const logprobs = (info as { input_token_logprobs?: unknown } | undefined)?.input_token_logprobs;
  if (!Array.isArray(logprobs)) {
    throw new EngineError(`engine ${http.endpoint} answered POST /generate without input_token_logprobs`);
  }
  // Each is log-probability, token, text. Of the first token there is none.
  return logprobs.slice(1).map((entry) => (typeof entry?.[0] === 'number' ? entry[0] : Number.NaN));
}
