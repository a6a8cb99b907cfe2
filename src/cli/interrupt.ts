import { AbortedError, describe, WeightcastError } from '../errors.ts';

/** What shells expect of a program that a signal ended: 128 and the signal's number. */
const exitCodes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;
type EndSignal = keyof typeof exitCodes;

/**
 * Runs a command to its end and exits with its code: `process.exitCode` if it set that, or what its error says, with the
 * error as one line on standard error; otherwise 0. On Ctrl-C the command's signal aborts, so that it can give everything back; a second one ends the
 * process at once.
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
    process.stderr.write(`${nameOf(thrown)}: ${describe(thrown).split('\n').join(' ')}\n`);
  }
  process.exit();
}

/** Rejects when the signal aborts, however long the work takes; the work itself is left to whoever cleans up. */
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

function nameOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.name : 'Error';
}
