import { AbortedError, describe, UsageError, WeightcastError } from '../errors.ts';
import { withOptionNames } from './option-names.ts';

/** By convention of shells: 128 plus the number of the signal. */
const exitCodes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;
type EndSignal = keyof typeof exitCodes;

/**
 * Runs a command and exits: with `process.exitCode` if the command set it, with the code of its error, which it prints as
 * one line on standard error, else with 0. Ctrl-C aborts
 * the command's signal, so that the command can clean up; a second Ctrl-C ends the process at once.
 */
export async function runCommand(command: (signal: AbortSignal) => Promise<void>): Promise<never> {
  const abort = new AbortController();
  let interruptedBy: EndSignal | null = null;
  for (const name of Object.keys(exitCodes) as EndSignal[]) {
    process.on(name, () => {
      if (interruptedBy !== null) process.exit(exitCodes[name]);
      interruptedBy = name;
      abort.abort(new AbortedError(`interrupted by ${name}`));
    });
  }
  try {
    await command(abort.signal);
  } catch (thrown) {
    process.exitCode = interruptedBy === null ? exitCodeOf(thrown) : exitCodes[interruptedBy as EndSignal];
    process.stderr.write(`${nameOf(thrown)}: ${textOf(thrown)}\n`);
  }
  process.exit();
}

/** Rejects as soon as the signal aborts. The work itself goes on: the caller has to end it. */
export function interruptible<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    if (signal.aborted) onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}

function exitCodeOf(thrown: unknown): number {
  return thrown instanceof WeightcastError ? thrown.exitCode : 1;
}

function textOf(thrown: unknown): string {
  const line = describe(thrown).split('\n').join(' ');
  return thrown instanceof UsageError ? withOptionNames(line) : line;
}

function nameOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.name : 'Error';
}
