import type { Interval } from '../src/native-bridge/addon.ts';
import type { Clock } from '../src/ports.ts';
import { TimerQueue } from './timer-queue.ts';
import { settle } from './turns.ts';

export { settle } from './turns.ts';

/** A clock that stands still until it is advanced. */
export class SimulatedClock implements Clock {
  #now = 0;
  readonly #timers = new TimerQueue();

  now(): number {
    return this.#now;
  }

  after(milliseconds: number, callback: () => void): () => void {
    return this.#timers.set(this.#now + Math.max(0, milliseconds), callback);
  }

  /** Number of timers that are set. */
  get pending(): number {
    return this.#timers.size;
  }

  /**
   * Lets virtual time pass, firing timers in the order in which they are due. Before the clock moves on, everything that
   * the timers of one moment started has run as far as it can without a timer of its own.
   */
  async advance(milliseconds: number): Promise<void> {
    await this.advanceUntil(() => false, milliseconds);
  }

  /** Like {@link advance}, but stops as soon as `holds` does. Resolves with whether it did. */
  async advanceUntil(holds: () => boolean, milliseconds: number): Promise<boolean> {
    const end = this.#now + milliseconds;
    await settle();
    while (!holds()) {
      const next = this.#timers.nextAt();
      if (next === null || next > end) {
        this.#now = end;
        return false;
      }
      this.#now = next;
      while (this.#timers.nextAt() === next) this.#timers.take()();
      await settle();
    }
    return true;
  }
}

/** Waits for virtual time to pass; resolves with when it began and ended. */
export function elapse(clock: Clock, milliseconds: number): Promise<Interval> {
  const startedAt = clock.now();
  return new Promise((resolve) => {
    clock.after(milliseconds, () => resolve({ startedAt, endedAt: clock.now() }));
  });
}
