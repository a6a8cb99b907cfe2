import { createInterface } from 'node:readline';
import { DeadlineError, UsageError } from '../errors.ts';

/**
 * A child process gets its configuration as the first line of standard input, and lives until that input ends. The
 * input ends when the parent closes it and also when the parent is killed, so no child outlives its parent.
 */
export interface Lifeline {
  /** The parsed first line. */
  readonly configuration: unknown;
  /** Resolves when the parent has let go. */
  readonly released: Promise<void>;
}

/** A parent writes the line before anything else; one that does not is not ours. */
const configurationDeadlineMilliseconds = 10_000;

export function takeLifeline(): Promise<Lifeline> {
  return new Promise((resolve, reject) => {
    const lines = createInterface({ input: process.stdin });
    const released = new Promise<void>((release) => lines.once('close', release));
    const timer = setTimeout(
      () => reject(new DeadlineError('no configuration came on standard input')),
      configurationDeadlineMilliseconds,
    );
    lines.once('line', (line) => {
      clearTimeout(timer);
      try {
        resolve({ configuration: JSON.parse(line), released });
      } catch {
        reject(new UsageError('the configuration on standard input is not JSON'));
      }
    });
    released.then(() => reject(new UsageError('standard input ended before a configuration came')));
  });
}
