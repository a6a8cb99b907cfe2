import type { Clock, Random } from '../../ports.ts';
import type { SupervisionPolicy } from './actor.ts';

export interface RestartLimits {
  readonly restarts: number;
  readonly withinMilliseconds: number;
  readonly backoffMilliseconds: number;
  readonly maximumBackoffMilliseconds: number;
}

/** For an actor whose crash must cost no more than what it was doing: it is started again, more and more slowly. */
export const restartForEver: SupervisionPolicy = {
  onCrash: 'restart',
  restarts: Number.POSITIVE_INFINITY,
  withinMilliseconds: 60_000,
  backoffMilliseconds: 50,
  maximumBackoffMilliseconds: 5_000,
};

/**
 * Restart intensity as in OTP: so many restarts within so much time, each after a longer wait. Waits have jitter
 * (half to all of the back-off), so that actors that crashed together do not restart together.
 */
export class RestartIntensity {
  readonly #limits: RestartLimits;
  readonly #clock: Clock;
  readonly #random: Random;
  #recent: number[] = [];

  constructor(limits: RestartLimits, clock: Clock, random: Random) {
    this.#limits = limits;
    this.#clock = clock;
    this.#random = random;
  }

  /** Counts one more crash: milliseconds to wait before the restart, or null when it is one too many. */
  next(): number | null {
    const { restarts, withinMilliseconds, backoffMilliseconds, maximumBackoffMilliseconds } = this.#limits;
    const now = this.#clock.now();
    this.#recent = this.#recent.filter((at) => now - at < withinMilliseconds);
    if (this.#recent.length >= restarts) return null;
    const backoff = Math.min(backoffMilliseconds * 2 ** this.#recent.length, maximumBackoffMilliseconds);
    this.#recent.push(now);
    return backoff * (0.5 + this.#random.next() / 2);
  }
}
