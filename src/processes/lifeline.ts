import { createInterface } from 'node:readline';
import { AbortedError, DeadlineError, UsageError } from '../errors.ts';

/**
 * A child process gets its configuration as the first line of standard input, and runs until that input ends: when the
 * parent closes it, or is killed. A signal that asks it to end does the same, so that it leaves nothing behind.
 */
export interface Lifeline {
  /** The parsed first line. */
  readonly configuration: unknown;
  /** Resolves when standard input has ended, or after SIGTERM, SIGINT or SIGHUP. */
  readonly released: Promise<void>;
}

/** Parents write the line right after they have started the process. */
const configurationDeadlineMilliseconds = 10_000;

export function takeLifeline(): Promise<Lifeline> {
  return new Promise((resolve, reject) => {
    const lines = createInterface({ input: process.stdin });
    const released = new Promise<void>((release) => {
      lines.once('close', release);
      for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => release());
    });
    const timer = setTimeout(
      () =>
        reject(
          new DeadlineError(
            `no configuration on standard input within ${configurationDeadlineMilliseconds / 1_000} s`,
          ),
        ),
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
    released.then(() =>
      reject(new AbortedError('standard input ended, or a signal came, before a configuration')),
    );
  });
}
