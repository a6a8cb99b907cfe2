import { DeadlineError, OverloadedError } from '../../src/errors.ts';

/** Limit of waiting completions; vLLM has none. */
const mostWaiting = 1024;

interface Waiting {
  readonly enter: () => void;
  readonly refuse: (error: Error) => void;
}

/**
 * Schedules completions, which run concurrently, and calls of all workers, which run exclusively, one by one. Calls have
 * priority. Completions also wait while the engine is paused.
 */
export class Gate {
  #inside = 0;
  #alone = false;
  #paused = false;
  #waiting: Waiting[] = [];
  #waitingAlone: (() => void)[] = [];
  #whenEmpty: (() => void)[] = [];

  get paused(): boolean {
    return this.#paused;
  }

  /**
   * Waits until a completion may run. Rejects with `OverloadedError` if too many wait, with the signal's reason when the
   * client disconnects, or with the error of {@link refuseWaiting}.
   */
  enter(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.reject(signal.reason);
    if (this.#waiting.length >= mostWaiting) {
      return Promise.reject(new OverloadedError(`${mostWaiting} requests are already waiting`));
    }
    const entered = new Promise<void>((resolve, reject) => {
      const onAbort = () => {
        this.#waiting = this.#waiting.filter((other) => other !== waiting);
        reject(signal.reason);
      };
      const settled = () => signal.removeEventListener('abort', onAbort);
      const waiting = {
        enter: () => {
          settled();
          resolve();
        },
        refuse: (error: Error) => {
          settled();
          reject(error);
        },
      };
      signal.addEventListener('abort', onAbort);
      this.#waiting.push(waiting);
    });
    this.#admit();
    return entered;
  }

  leave(): void {
    this.#inside -= 1;
    if (this.#inside === 0) for (const empty of this.#whenEmpty.splice(0)) empty();
    this.#admit();
  }

  /** Waits until a call of all workers may run. Rejects with `DeadlineError` if earlier calls take too long. */
  enterAlone(timeoutMilliseconds: number): Promise<void> {
    const entered = new Promise<void>((resolve, reject) => {
      const late = setTimeout(() => {
        this.#waitingAlone = this.#waitingAlone.filter((other) => other !== enter);
        reject(new DeadlineError(`earlier calls were not done within ${timeoutMilliseconds} ms`));
        this.#admit();
      }, timeoutMilliseconds);
      const enter = () => {
        clearTimeout(late);
        resolve();
      };
      this.#waitingAlone.push(enter);
    });
    this.#admit();
    return entered;
  }

  leaveAlone(): void {
    this.#alone = false;
    this.#admit();
  }

  /** Holds back waiting and new completions. */
  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#admit();
  }

  /** Rejects all waiting completions. */
  refuseWaiting(error: Error): void {
    for (const { refuse } of this.#waiting.splice(0)) refuse(error);
  }

  /** Resolves when no completion runs. */
  empty(): Promise<void> {
    if (this.#inside === 0) return Promise.resolve();
    return new Promise((resolve) => this.#whenEmpty.push(resolve));
  }

  #admit(): void {
    if (this.#alone) return;
    if (this.#waitingAlone.length > 0) {
      if (this.#inside > 0) return;
      this.#alone = true;
      this.#waitingAlone.shift()!();
    } else if (!this.#paused) {
      this.#inside += this.#waiting.length;
      for (const { enter } of this.#waiting.splice(0)) enter();
    }
  }
}
