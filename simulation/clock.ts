import type { Clock } from '../src/ports.ts';
import { TimerQueue } from './timer-queue.ts';
import { settle } from './turns.ts';

export { settle } from './turns.ts';

/** A clock that stands still until it is told to go on. */
export class SimulatedClock implements Clock {
  #now = 0;
  readonly #timers = new TimerQueue();

  now(): number {
    return this.#now;
  }

  after(milliseconds: number, callback: () => void): () => void {
    return this.#timers.set(this.#now + Math.max(0, milliseconds), callback);
  }

  /** Timers that are set. */
  get pending(): number {
    return this.#timers.size;
  }

  /**
   * Lets virtual time pass, timer by timer in the order they are due. Between two moments everything that the first
   * one set off runs to its end, so far as it needs no time itself.
   */
  async advance(milliseconds: number): Promise<void> {
    await this.advanceUntil(() => false, milliseconds);
  }

  /** As {@link advance}, but stops at the moment in which `holds` does: true if that came about. */
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
