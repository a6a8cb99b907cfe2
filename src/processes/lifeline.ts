import { createInterface } from 'node:readline';
import { AbortedError, DeadlineError, UsageError } from '../errors.ts';

/**
 * How a process was let go: its parent said so, or has died without a word, or a signal asked it to end. All but ranks, which
 * outlive their supervisor, end in any case, and leave nothing behind.
 */
export type LetGo = 'stopped' | 'orphaned' | 'signal';

/**
 * A child process gets its configuration as the first line of standard input, and runs until that input ends: when the
 * parent closes it, or is killed.
 */
export interface Lifeline {
  /** The parsed first line. */
  readonly configuration: unknown;
  /** Resolves when standard input has ended, or after SIGTERM, SIGINT or SIGHUP. */
  readonly released: Promise<LetGo>;
  /** Resolves after one of these signals, also once standard input has ended. */
  readonly signalled: Promise<void>;
}

/** The last line of a parent that lets go; it cannot write that when it is killed. */
export const farewell = 'stop';

/** Parents write the line right after they have started the process. */
const configurationDeadlineMilliseconds = 10_000;

export function takeLifeline(): Promise<Lifeline> {
  return new Promise((resolve, reject) => {
    const lines = createInterface({ input: process.stdin });
    const signalled = new Promise<void>((signal) => {
      for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(name, () => signal());
    });
    const released = new Promise<LetGo>((release) => {
      lines.on('line', (line) => line === farewell && release('stopped'));
      lines.once('close', () => release('orphaned'));
      void signalled.then(() => release('signal'));
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
        resolve({ configuration: JSON.parse(line), released, signalled });
      } catch {
        reject(new UsageError('the configuration on standard input is not JSON'));
      }
    });
    released.then(() =>
      reject(new AbortedError('standard input ended, or a signal came, before a configuration')),
    );
  });
}
