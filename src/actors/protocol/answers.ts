import * as z from 'zod';
import { name } from './values.ts';

/** The proof of answers: prompts, and how probable an engine must find their tokens. Probabilities are natural logarithms. */

/** So that they cost an engine no more than a few ordinary requests, and fit into a message. */
export const answerLimits = { prompts: 64, tokens: 4_096, characters: 16_384 } as const;

/**
 * How far a log-probability may be off. Kernels, parallel layouts and batches of BF16 differ by hundredths, rarely by a
 * tenth; a token that other weights find as probable by chance is rare.
 */
export const defaultTolerance = 0.2;

const tolerance = z.number().positive();

/** Text, or the numbers of its tokens. */
const prompt = z.union(
  [
    z.string().min(1).max(answerLimits.characters),
    z.array(z.int().nonnegative()).min(2).max(answerLimits.tokens),
  ],
  {
    error: `expected text of at most ${answerLimits.characters} characters, or 2 to ${answerLimits.tokens} token numbers`,
  },
);

const prompts = z.array(prompt).min(1).max(answerLimits.prompts);

/** A prompt, and the log-probabilities of its last tokens, each given those before it. */
export const expectedAnswer = z
  .object({
    prompt,
    logprobs: z.array(z.number().max(0)).min(1).max(answerLimits.tokens),
    tolerance: tolerance.optional(),
  })
  .refine(({ prompt, logprobs }) => typeof prompt === 'string' || logprobs.length < prompt.length, {
    path: ['logprobs'],
    error: 'a prompt has log-probabilities of at most all its tokens but the first',
  });
export type ExpectedAnswer = z.infer<typeof expectedAnswer>;

export const expectedAnswers = z.array(expectedAnswer).min(1).max(answerLimits.prompts);

/** Prompts that an instance, which holds the version already, answers too: to their tokens it must find the same. */
export const agreement = z.object({ agreeWith: name, prompts, tolerance: tolerance.optional() });

export const answersAsked = z.union([expectedAnswers, agreement]);
export type AnswersAsked = z.infer<typeof answersAsked>;

/** What each data-parallel rank of an engine answered: `RankAnswers` of engines/engine-client.ts. */
export const rankAnswers = z.object({
  dataParallelRank: z.int().nonnegative().nullable(),
  logprobs: z.array(z.array(z.union([z.number(), z.nan()]))),
});

/** Prompts as a bridge gets them: none, to know whether the engine would answer any. */
export const askedPrompts = z.array(prompt).max(answerLimits.prompts);
