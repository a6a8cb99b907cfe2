import { DeadlineError } from '../../errors.ts';
import type { UpdateContext, UpdateTarget } from './context.ts';
import { stepTimeoutOf } from './step-timeout.ts';

/**
 * The answer of an engine to the update call. That has no deadline but the update's, as it takes as long as its workers do; once
 * they have acknowledged everything (`streams`), the engine has only to say so, for which it gets the time of a step. Rejects
 * as `answer` does, and with `DeadlineError`, which is noted as the engine's failure.
 */
export async function answerInTime(
  part: UpdateContext,
  target: UpdateTarget,
  answer: Promise<void>,
  streams: readonly Promise<void>[],
): Promise<void> {
  const milliseconds = stepTimeoutOf(part);
  let cancel = () => {};
  let isOver = false;
  const late = new Promise<never>((_, reject) => {
    const giveUp = () => {
      const error = new DeadlineError(
        `engine ${target.endpoint} has not answered the update call ${milliseconds} ms after its workers had everything (stepTimeoutMilliseconds, --step-timeout)`,
      );
      part.failures.ofEngine(target, error);
      reject(error);
    };
    const wait = () => {
      if (!isOver) cancel = part.context.clock.after(milliseconds, giveUp);
    };
    Promise.all(streams).then(wait, () => {});
  });
  try {
    await Promise.race([answer, late]);
  } finally {
    isOver = true;
    cancel();
  }
}
