import type { Baseline as BaselineValue, ProofsAsked } from '../actors/protocol/update-values.ts';
import { UsageError } from '../errors.ts';
import { type AnswerOptions, answersAsked } from './answer-options.ts';
import { Baseline } from './baseline.ts';

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
  /**
   * Of engines that were started with this checkpoint, or the file of one (`weightcast baseline`): the engine must hold what
   * they do. Default: none; then what it holds is compared among instances, and with earlier updates to the same version.
   */
  readonly baseline?: Baseline | string;
}

/** True: all that needs nothing from the user, `arrived` and `installed`. False: nothing. Throws `UsageError`. */
export function proofsAsked(verify: boolean | ProofOptions): ProofsAsked {
  if (typeof verify === 'boolean') return { arrived: verify, installed: verify };
  const { installed = true, baseline, answers } = verify ?? {};
  if (typeof verify !== 'object' || verify === null || typeof installed !== 'boolean') {
    throw new UsageError(
      'verify must be true, false or { installed: true or false, baseline, answers: [ … ] }',
    );
  }
  if (!installed && baseline !== undefined) {
    throw new UsageError(
      'verify.baseline is compared with what is installed: verify.installed must not be false',
    );
  }
  return {
    arrived: true,
    installed,
    ...(answers !== undefined && { answers: answersAsked(answers, 'verify.answers') }),
  };
}

/** Null if there is none. Throws `UsageError`. */
export function baselineOf(verify: boolean | ProofOptions): BaselineValue | null {
  if (typeof verify === 'boolean' || verify.baseline === undefined) return null;
  const { baseline } = verify;
  if (typeof baseline !== 'string' && !(baseline instanceof Baseline)) {
    throw new UsageError('verify.baseline must be a Baseline, or the path of its file');
  }
  const { places } = typeof baseline === 'string' ? Baseline.read(baseline) : baseline;
  return places.map(({ place, names, differing, ...held }) => {
    return { ...held, place: { ...place }, names: [...names], differing: [...differing] };
  });
}
