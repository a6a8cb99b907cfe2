import { readFileSync } from 'node:fs';
import { type AnswerOptions, answersAsked } from '../cluster/answer-options.ts';
import { describe, UsageError } from '../errors.ts';

/** What an engine has to answer, from a file that a trainer has written. Throws a `UsageError` that names the file. */
export function readAnswers(file: string): AnswerOptions {
  let answers: unknown;
  try {
    answers = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new UsageError(`--answers: cannot read ${file}: ${describe(error)}`);
  }
  return answersAsked(answers, `--answers: ${file}: answers`) as AnswerOptions;
}
