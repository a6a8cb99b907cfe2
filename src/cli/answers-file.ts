import { type AnswerOptions, answersAsked } from '../cluster/answer-options.ts';
import { describe, UsageError } from '../errors.ts';
import { readText } from '../text-file.ts';

/** What an engine has to answer, from a file that a trainer has written. Throws a `UsageError` that names the file. */
export function readAnswers(file: string): AnswerOptions {
  let answers: unknown;
  try {
    answers = JSON.parse(readText(file));
  } catch (error) {
    throw new UsageError(`--answers: cannot read ${file}: ${describe(error)}`);
  }
  return answersAsked(answers, `--answers: ${file}: answers`) as AnswerOptions;
}
