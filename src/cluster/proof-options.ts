import type { ProofsAsked } from '../actors/protocol/update-values.ts';
import { UsageError } from '../errors.ts';
import { type AnswerOptions, answersAsked } from './answer-options.ts';

/** What to prove of an instance beside `arrived`, which is that its workers received the checkpoint's bytes. */
export interface ProofOptions {
  /**
   * That the engine's model holds them: all that should change was written, and what is live now is as it should be.
   * Default: true.
   */
  readonly installed?: boolean;
  /**
   * That the engine answers as it should: how probable it finds the tokens of a few prompts, asked right after it is resumed.
   * One that answers otherwise is paused again, and broken. Default: it is asked nothing.
   */
  readonly answers?: AnswerOptions;
}

/** True: all that needs nothing from the user, `arrived` and `installed`. False: nothing. Throws `UsageError`. */
export function proofsAsked(verify: boolean | ProofOptions): ProofsAsked {
  if (typeof verify === 'boolean') return { arrived: verify, installed: verify };
  const { installed = true, answers } = verify ?? {};
  if (typeof verify !== 'object' || verify === null || typeof installed !== 'boolean') {
    throw new UsageError(`verify must be true, false or { installed: true or false, answers: [ … ] }`);
  }
  return {
    arrived: true,
    installed,
    ...(answers !== undefined && { answers: answersAsked(answers, 'verify.answers') }),
  };
}
