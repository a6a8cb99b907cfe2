import * as z from 'zod';
import { RefusedRequest } from './http-errors.ts';

/** The requests of vLLM's API; fields that make no difference to this engine are ignored. */

const mostPrompts = 256;
const mostWords = 4096;
const mostTokens = 32_768;

const one = z.literal(1, 'this engine returns one completion per prompt');
const never = z.literal(false, 'this engine does not stream');

const tokens = z.array(z.int().min(0)).min(1).max(mostTokens);

const completionRequest = z.object({
  model: z.string().nullish(),
  prompt: z.union(
    [
      z.string(),
      tokens,
      z.array(z.string()).min(1).max(mostPrompts),
      z.array(tokens).min(1).max(mostPrompts),
    ],
    { error: `must be a string, token numbers, or 1 to ${mostPrompts} of these` },
  ),
  /** How many alternatives to each token of the prompt; there are none. */
  prompt_logprobs: z.literal(0, 'this engine knows no alternatives to a token').nullish(),
  max_tokens: z.int().min(1).max(mostWords).nullish(),
  n: one.nullish(),
  best_of: one.nullish(),
  stream: never.nullish(),
});
export type CompletionRequest = z.infer<typeof completionRequest>;

const collectiveRequest = z.object({
  method: z.string({ error: "Missing 'method' in request body" }),
  args: z.array(z.unknown()).nullish(),
  kwargs: z.record(z.string(), z.unknown()).nullish(),
  /** Seconds. */
  timeout: z.number().positive().nullish(),
});
export type CollectiveRequest = z.infer<typeof collectiveRequest>;

const pauseQuery = z.object({
  mode: z.enum(['abort', 'wait', 'keep']).default('abort'),
});
export type PauseQuery = z.infer<typeof pauseQuery>;

export const parseCompletion = (body: unknown) => parseBody(completionRequest, body);
export const parseCollective = (body: unknown) => parseBody(collectiveRequest, body);
export const parsePause = (query: unknown) => check(pauseQuery, query);

function parseBody<T>(schema: z.ZodType<T>, body: unknown): T {
  let value: unknown;
  try {
    value = JSON.parse(typeof body === 'string' ? body : '');
  } catch (error) {
    throw new RefusedRequest(`JSON decode error: ${(error as Error).message}`);
  }
  return check(schema, value);
}

function check<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const param = issue!.path.join('.');
  throw new RefusedRequest(param === '' ? issue!.message : `${param}: ${issue!.message}`, { param });
}
