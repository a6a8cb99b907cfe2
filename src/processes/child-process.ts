import { type ChildProcess, spawn } from 'node:child_process';
import type { Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { inheritedEnvironment, inheritedOptions } from './inherited-options.ts';
import { farewell } from './lifeline.ts';

/** A process of ours that ends when its parent lets go (lifeline.ts). */
export interface OwnedProcess {
  readonly pid: number;
  /** Resolves when it is gone, with how it ended: `exit code 0`, `SIGKILL`. */
  readonly exited: Promise<string>;
  /** Kills it at once, with all of its process group, and not a word that it might still act on. */
  kill(): void;
  /** Sends a message of JSON on the channel; one that cannot arrive is dropped, as `exited` tells of it. */
  send(message: object): void;
  /**
   * Lets go of it, and kills it, with all of its process group, if it has not ended by itself after the grace time. Called
   * again, the earliest of the times counts. Resolves when it is gone, with whether it had to be killed.
   */
  stop(graceMilliseconds: number): Promise<{ readonly wasKilled: boolean }>;
}

/**
 * Runs one of our entry files. `entry` is named without its ending, relative to `base`, since it ends in .ts in a
 * source tree and in .js in a package. With `onMessage` the child has a channel to this process, on which it sends
 * with `process.send`. With a `launcher`, words such as `ssh host`, the command is what that is to run; the child is
 * let go as others are, when its standard input ends. `environment`: further variables of its environment.
 *
 * The child gets a process group of its own: Ctrl-C in a terminal reaches the parent alone, which then stops its
 * children in order.
 */
export function startProcess(
  entry: string,
  base: string,
  configuration: object,
  onMessage?: (message: unknown) => void,
  launcher: readonly string[] = [],
  environment: Readonly<Record<string, string>> = {},
): OwnedProcess {
  const needsLoader = base.endsWith('.ts');
  const path = fileURLToPath(new URL(`${entry}${needsLoader ? '.ts' : '.js'}`, base));
  const options = inheritedOptions(process.execArgv, needsLoader);
  const [command, ...words] = [...launcher, process.execPath, ...options, path];
  const child = spawn(command!, words, {
    stdio: ['pipe', 'inherit', 'inherit', ...(onMessage === undefined ? [] : (['ipc'] as const))],
    detached: true,
    env: { ...inheritedEnvironment(process.env, needsLoader), ...environment },
  });
  const exited = exitOf(child);
  // None, where no more descriptors are to be had: `exited` tells of it.
  const stdin: Writable | undefined = child.stdin ?? undefined;
  // A child that ended early makes the write fail; its exit is what gets reported.
  stdin?.on('error', () => {});
  stdin?.write(`${JSON.stringify(configuration)}\n`);
  if (onMessage !== undefined) child.on('message', onMessage);
  let wasKilled = false;
  const kill = () => {
    wasKilled = killGroup(child) || wasKilled;
  };
  return {
    pid: child.pid ?? 0,
    exited,
    kill,
    send: (message) => {
      if (child.connected) child.send(message, () => {});
    },
    async stop(graceMilliseconds) {
      if (stdin?.writableEnded === false) stdin.end(`${farewell}\n`);
      const timer = setTimeout(kill, graceMilliseconds);
      await exited;
      clearTimeout(timer);
      return { wasKilled };
    },
  };
}

/** Returns whether there was something to kill. */
function killGroup(child: ChildProcess): boolean {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return false;
  try {
    return process.kill(-child.pid, 'SIGKILL');
  } catch {
    // It has just ended.
    return false;
  }
}

function exitOf(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (code, signal) => resolve(signal ?? `exit code ${code}`));
  });
}
