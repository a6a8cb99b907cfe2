import { randomUUID } from 'node:crypto';
import { EngineError } from '../errors.ts';
import { EngineRefusal } from './engine-answer.ts';
import type { CallOptions, Prompt, RankAnswers } from './engine-client.ts';
import type { EngineHttp } from './engine-http.ts';

/** Where vLLM's load balancer sends a request (`vllm/entrypoints/generate/base/serving.py`). */
const rankHeader = 'x-data-parallel-rank';

/**
 * The log-probabilities that a vLLM gives to the tokens of prompts, from each of its data-parallel ranks. Rejects as
 * `EngineHttp.object` does, and with `EngineError` for an answer without them.
 */
export async function vllmAnswers(
  http: EngineHttp,
  prompts: readonly Prompt[],
  options: CallOptions,
): Promise<RankAnswers[]> {
  const model = await modelOf(http, options);
  const ranks = await dataParallelRanks(http, options);
  const answers = ranks.map(async (rank): Promise<RankAnswers | null> => {
    const asked = prompts.map((prompt) => answerOf(http, { model, prompt, rank }, options));
    try {
      return { dataParallelRank: rank, logprobs: await Promise.all(asked) };
    } catch (error) {
      await Promise.allSettled(asked);
      // A server beside others, each with ranks of its own, knows the size of all, but numbers its own from 0.
      if (rank !== null && rank > 0 && error instanceof EngineRefusal && /out of range/.test(error.message))
        return null;
      throw error;
    }
  });
  return (await Promise.all(answers)).filter((answer) => answer !== null);
}

/** The name of the model itself; adapters on top of it have a parent. */
async function modelOf(http: EngineHttp, options: CallOptions): Promise<string> {
  const { data } = await http.object('GET', '/v1/models', null, options);
  const models = Array.isArray(data) ? (data as { id?: unknown; parent?: unknown }[]) : [];
  const name = models.find(({ parent }) => parent === null || parent === undefined)?.id;
  if (typeof name === 'string') return name;
  throw new EngineError(`engine ${http.endpoint} names no model in its answer to GET /v1/models`);
}

/** Null, for any rank, where there is one, or the engine does not say how many there are. */
async function dataParallelRanks(http: EngineHttp, options: CallOptions): Promise<(number | null)[]> {
  const [all, ofOne] = await Promise.all([
    http.valueOf('/get_world_size', 'world_size', options),
    http.valueOf('/get_world_size?include_dp=false', 'world_size', options),
  ]);
  const size = typeof all === 'number' && typeof ofOne === 'number' ? all / ofOne : 1;
  return Number.isInteger(size) && size > 1 ? [...Array(size).keys()] : [null];
}

interface Asked {
  readonly model: string;
  readonly prompt: Prompt;
  readonly rank: number | null;
}

async function answerOf(http: EngineHttp, asked: Asked, options: CallOptions): Promise<number[]> {
  const { model, prompt, rank } = asked;
  // With no alternatives to it (0), each token's entry is its own alone. What other requests have left in the prefix
  // cache is of another salt.
  const body = { model, prompt, max_tokens: 1, temperature: 0, prompt_logprobs: 0, cache_salt: randomUUID() };
  const headers = rank === null ? {} : { [rankHeader]: String(rank) };
  const { choices } = await http.object('POST', '/v1/completions', body, options, headers);
  const logprobs = Array.isArray(choices) ? choices[0]?.prompt_logprobs : null;
  if (!Array.isArray(logprobs)) {
    throw new EngineError(`engine ${http.endpoint} answered POST /v1/completions without prompt_logprobs`);
  }
  // Of the first token there is none.
  return logprobs
    .slice(1)
    .map((entry, index) => logprobOf(entry, typeof prompt === 'string' ? null : prompt[index + 1]!));
}

/** NaN if the entry has none for the token: it is like no number that may be expected. */
function logprobOf(entry: Record<string, { logprob?: unknown }> | null, token: number | null): number {
  const found = token === null ? Object.values(entry ?? {})[0] : entry?.[token];
  return typeof found?.logprob === 'number' ? found.logprob : Number.NaN;
}
