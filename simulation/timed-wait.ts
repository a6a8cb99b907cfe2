import { AbortedError, DeadlineError, type WeightcastError } from '../src/errors.ts';
import type { Clock } from '../src/ports.ts';

export interface TimedWaitOptions {
  /** What is waited for, for error messages. */
  readonly what: string;
  readonly timeoutMilliseconds: number;
  readonly signal?: AbortSignal | undefined;
}

/** An operation that ends once: when it is settled, at its deadline, or when its signal aborts. */
export class TimedWait {
  readonly done: Promise<void>;
  readonly #onEnd: (() => void)[] = [];
  #resolve: () => void = () => {};
  #reject: (error: WeightcastError) => void = () => {};
  #isOver = false;

  constructor(clock: Clock, { what, timeoutMilliseconds, signal }: TimedWaitOptions) {
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    const late = `${what} took longer than ${timeoutMilliseconds} ms`;
    this.onEnd(clock.after(timeoutMilliseconds, () => this.settle(new DeadlineError(late))));
    const onAbort = () => this.settle(new AbortedError(`${what} was cancelled`));
    signal?.addEventListener('abort', onAbort, { once: true });
    this.onEnd(() => signal?.removeEventListener('abort', onAbort));
    if (signal?.aborted) onAbort();
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** Calls `callback` when the operation ends, at once if it has ended. */
  onEnd(callback: () => void): void {
    if (this.#isOver) callback();
    else this.#onEnd.push(callback);
  }

  settle(error: WeightcastError | null): void {
    if (this.#isOver) return;
    this.#isOver = true;
    for (const callback of this.#onEnd) callback();
    if (error === null) this.#resolve();
    else this.#reject(error);
  }
}
