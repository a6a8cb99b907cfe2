import type { Clock, Random } from '../../ports.ts';

const firstMilliseconds = 200;
const longestMilliseconds = 60_000;
/** A rank that was ready for this long has recovered from whatever ended it before. */
const steadyMilliseconds = 60_000;

/**
 * When a rank process that has ended is started again: after a wait that doubles with every end in a row, with jitter
 * (half to all of it), so that ranks that died together do not start together. It is started again for ever: what it lacks,
 * a GPU's memory or its engine, may come back at any time.
 */
export class RestartBackoff {
  readonly #clock: Clock;
  readonly #random: Random;
  #readySince: number | null = null;
  #ends = 0;

  constructor(clock: Clock, random: Random) {
    this.#clock = clock;
    this.#random = random;
  }

  /** How often it has ended since it was steady. */
  get ends(): number {
    return this.#ends;
  }

  ready(): void {
    this.#readySince ??= this.#clock.now();
  }

  /** Counts one more end: milliseconds until the next start. */
  next(): number {
    const wasSteady = this.#readySince !== null && this.#clock.now() - this.#readySince >= steadyMilliseconds;
    this.#readySince = null;
    this.#ends = wasSteady ? 1 : this.#ends + 1;
    const wait = Math.min(firstMilliseconds * 2 ** (this.#ends - 1), longestMilliseconds);
    return wait * (0.5 + this.#random.next() / 2);
  }
}
