import type { Prompt, RankAnswers } from '../../engines/engine-client.ts';
import { VerificationError } from '../../errors.ts';
import { defaultTolerance, type ExpectedAnswer } from '../protocol/answers.ts';
import { ask } from '../protocol/ask.ts';
import { toBridge } from '../protocol/bridge.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { UpdateContext, UpdateTarget } from './context.ts';

/** An engine gets at least this long to answer, even after the update's deadline or its abort. */
const leastAnswerMilliseconds = 5_000;
/** How much of a prompt an error quotes. */
const quotedCharacters = 40;

/** A prompt and the log-probabilities of its last tokens. */
export type Expectation = Pick<ExpectedAnswer, 'prompt' | 'logprobs'> & { readonly tolerance: number };

/**
 * What the engines will have to answer, from the request or from the instance that they are to agree with; null if nothing
 * is asked of them. Rejects as that instance's bridge does.
 */
export async function expectationsOf(update: UpdateContext): Promise<Expectation[] | null> {
  const { options, agreeWith } = update.spec;
  const { answers } = options.verify;
  if (answers === undefined) return null;
  if (Array.isArray(answers)) {
    return answers.map(({ prompt, logprobs, tolerance = defaultTolerance }) => ({
      prompt,
      logprobs,
      tolerance,
    }));
  }
  const { prompts, tolerance = defaultTolerance } = answers;
  const timeoutMilliseconds = update.left();
  const within = update.within(timeoutMilliseconds + deadlines.control);
  const question = { prompts, timeoutMilliseconds };
  const { ranks } = await ask(update.context, agreeWith!.bridge, toBridge.answers, question, within);
  return prompts.map((prompt, index) => ({ prompt, logprobs: ranks[0]!.logprobs[index]!, tolerance }));
}

/**
 * Asks an engine that has been resumed, and compares. Rejects with `VerificationError` if it answers otherwise than
 * expected, and as its bridge does if it does not answer.
 */
export async function checkAnswers(
  update: UpdateContext,
  target: UpdateTarget,
  expectations: readonly Expectation[],
): Promise<void> {
  const { context } = update;
  const stopped = new AbortController();
  let cancel = () => {};
  const forget = update.onAborted((reason) => {
    cancel = context.clock.after(leastAnswerMilliseconds, () => stopped.abort(reason));
  });
  const timeoutMilliseconds = Math.max(leastAnswerMilliseconds, update.left());
  const question = { prompts: expectations.map(({ prompt }) => prompt), timeoutMilliseconds };
  const { ranks } = await ask(context, target.bridge, toBridge.answers, question, {
    deadlineMilliseconds: timeoutMilliseconds + deadlines.control,
    signal: stopped.signal,
  }).finally(() => {
    forget();
    cancel();
  });
  const worst = worstOf(expectations, ranks);
  if (worst === null || worst.excess <= 1) return;
  throw new VerificationError(`instance ${target.name} does not answer as expected: ${worst.words}`);
}

interface Difference {
  /** In tolerances. */
  readonly excess: number;
  readonly words: string;
}

/** The answer that is furthest from what was expected; null if there is none. */
function worstOf(
  expectations: readonly Expectation[],
  ranks: readonly Pick<RankAnswers, 'dataParallelRank' | 'logprobs'>[],
): Difference | null {
  let worst: Difference | null = null;
  for (const { dataParallelRank, logprobs } of ranks) {
    for (const [index, expected] of expectations.entries()) {
      const difference = differenceOf(expected, logprobs[index] ?? []);
      if (worst !== null && difference.excess <= worst.excess) continue;
      const which = `prompt ${index + 1} of ${expectations.length} (${quoted(expected.prompt)})`;
      const where = dataParallelRank === null ? '' : ` on data-parallel rank ${dataParallelRank}`;
      worst = { ...difference, words: `${which}${where}, ${difference.words}` };
    }
  }
  return worst;
}

function differenceOf({ logprobs, tolerance }: Expectation, answered: readonly number[]): Difference {
  const first = answered.length - logprobs.length;
  if (logprobs.length === 0) {
    const words = 'has one token, of which nobody says how probable it is: ask with longer prompts';
    return { excess: Number.POSITIVE_INFINITY, words };
  }
  if (first < 0) {
    const words = `has log-probabilities of ${answered.length} tokens, and ${logprobs.length} are expected`;
    return { excess: Number.POSITIVE_INFINITY, words };
  }
  let worst: Difference = { excess: Number.NEGATIVE_INFINITY, words: '' };
  for (const [index, expected] of logprobs.entries()) {
    const found = answered[first + index]!;
    // A token without any, there or in the instance that it is to agree with, is like no number.
    const apart = Math.abs(found - expected);
    const difference = Number.isNaN(apart) ? Number.POSITIVE_INFINITY : apart;
    const excess = difference / tolerance;
    if (excess <= worst.excess) continue;
    // Counted from 1, and the first token has no log-probability.
    const token = `token ${first + index + 2}`;
    const off = `off by ${difference.toFixed(3)}, of which ${tolerance} is tolerated`;
    worst = {
      excess,
      words: `${token}: log-probability ${said(found)}, expected ${said(expected)} (${off})`,
    };
  }
  return worst;
}

function said(logprob: number): string {
  return Number.isNaN(logprob) ? 'none' : logprob.toFixed(3);
}

function quoted(prompt: Prompt): string {
  const text = typeof prompt === 'string' ? prompt : prompt.join(' ');
  const short = text.length > quotedCharacters ? `${text.slice(0, quotedCharacters)}…` : text;
  return typeof prompt === 'string' ? JSON.stringify(short) : `tokens ${short}`;
}
