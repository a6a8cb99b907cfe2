import { setTimeout as wait } from 'node:timers/promises';
import { type Child, ChildList } from './child-list.ts';
import type { OwnedProcess } from './child-process.ts';
import { startTimeOf } from './is-running.ts';

const pollMilliseconds = 100;

/** A rank's process that has outlived the supervisor or the agent which started it. It is no child of this process. */
export class Survivor implements OwnedProcess {
  readonly pid: number;
  readonly exited: Promise<string>;
  readonly #child: Child;

  constructor(child: Child) {
    this.pid = child.pid;
    this.#child = child;
    this.exited = this.#exit();
  }

  kill(): void {
    this.#signal(-this.pid, 'SIGKILL');
  }

  send(): void {}

  async stop(graceMilliseconds: number): Promise<{ readonly wasKilled: boolean }> {
    this.#signal(this.pid, 'SIGTERM');
    let wasKilled = false;
    const timer = setTimeout(() => {
      wasKilled = this.#signal(-this.pid, 'SIGKILL') || wasKilled;
    }, graceMilliseconds);
    await this.exited;
    clearTimeout(timer);
    return { wasKilled };
  }

  get #runs(): boolean {
    return startTimeOf(this.pid) === this.#child.startTime;
  }

  /** Returns whether there was something to signal. */
  #signal(target: number, signal: NodeJS.Signals): boolean {
    try {
      return this.#runs && process.kill(target, signal);
    } catch {
      // It has just ended.
      return false;
    }
  }

  /** Only a parent is told how a process has ended. */
  async #exit(): Promise<string> {
    while (this.#runs) await wait(pollMilliseconds);
    return 'it has ended';
  }
}

/** Ends what supervisors that died have left, and resolves with the names of those that it had to kill. */
export async function endSurvivors(directory: string, graceMilliseconds: number): Promise<string[]> {
  const ends = ChildList.read(directory).map(async (child) => {
    const { wasKilled } = await new Survivor(child).stop(graceMilliseconds);
    return wasKilled ? [child.name] : [];
  });
  return (await Promise.all(ends)).flat();
}
