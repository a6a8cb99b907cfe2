import * as z from 'zod';
import { type AnswersAsked, agreement, expectedAnswers } from '../actors/protocol/answers.ts';
import { UsageError } from '../errors.ts';
import { issueOf } from '../schema-issue.ts';

/** A prompt, and how probable its tokens are. */
export interface ExpectedAnswer {
  /**
   * Text, or the numbers of its tokens. Give numbers to be sure of the tokens, and what an answer's tokens are to be after
   * those of the question.
   */
  readonly prompt: string | readonly number[];
  /**
   * Of the last tokens of the prompt, at most of all but the first: natural logarithms of the probability of each, given the
   * tokens before it, at temperature 1.
   */
  readonly logprobs: readonly number[];
  /** How far a log-probability may be off. Default: 0.2. */
  readonly tolerance?: number;
}

/** The answers of an instance that has the version already. */
export interface Agreement {
  /** Its name. It is not updated itself. */
  readonly agreeWith: string;
  readonly prompts: readonly (string | readonly number[])[];
  /** How far a log-probability may be off. Default: 0.2. */
  readonly tolerance?: number;
}

export type AnswerOptions = readonly ExpectedAnswer[] | Agreement;

/** `option`: for messages. Throws a `UsageError` that names what is wrong. */
export function answersAsked(answers: unknown, option: string): AnswersAsked {
  const parsed = z.safeParse(Array.isArray(answers) ? expectedAnswers : agreement, answers);
  if (parsed.success) return parsed.data;
  const issue = issueOf(parsed.error);
  const path = issue.path.map((key) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`)).join('');
  throw new UsageError(`${option}${path}: ${issue.message}`);
}
