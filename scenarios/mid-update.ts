import type { Progress } from '../src/index.ts';

/** Calls `strike` once, as soon as an engine worker has loaded something in the update that comes after {@link arm}. */
export class MidUpdate {
  /** Milliseconds, as `performance.now` has them; null if the update was over before. */
  struckAt: number | null = null;
  failure: unknown = null;
  readonly #strike: () => void | Promise<void>;
  #isArmed = false;

  constructor(strike: () => void | Promise<void>) {
    this.#strike = strike;
  }

  arm(): void {
    this.#isArmed = true;
  }

  progress({ activity, doneBytes, totalBytes }: Progress): void {
    if (!this.#isArmed || this.struckAt !== null || activity !== 'update') return;
    if (doneBytes === 0 || doneBytes === totalBytes) return;
    this.struckAt = performance.now();
    Promise.resolve(this.#strike()).catch((error) => {
      this.failure = error;
    });
  }
}
