import type { Clock } from '../ports.ts';

/** A clock that stands still until it is told to go on. */
export class SimulatedClock implements Clock {
  #now = 0;
  #nextId = 0;
  readonly #timers = new Map<number, { readonly at: number; readonly callback: () => void }>();

  now(): number {
    return this.#now;
  }

  after(milliseconds: number, callback: () => void): () => void {
    const id = this.#nextId;
    this.#nextId += 1;
    this.#timers.set(id, { at: this.#now + Math.max(0, milliseconds), callback });
    return () => {
      this.#timers.delete(id);
    };
  }

  /** Timers that are set. */
  get pending(): number {
    return this.#timers.size;
  }

  /**
   * Lets virtual time pass, timer by timer in the order they are due. Between two timers everything that the first
   * one set off runs to its end, so far as it needs no time itself.
   */
  async advance(milliseconds: number): Promise<void> {
    const end = this.#now + milliseconds;
    await settle();
    for (;;) {
      const due = this.#nextDue(end);
      if (due === null) break;
      const { at, callback } = this.#timers.get(due)!;
      this.#timers.delete(due);
      this.#now = at;
      callback();
      await settle();
    }
    this.#now = end;
  }

  #nextDue(end: number): number | null {
    let due: number | null = null;
    for (const [id, { at }] of this.#timers) {
      if (at <= end && (due === null || at < this.#timers.get(due)!.at)) due = id;
    }
    return due;
  }
}

/** Turns of the event loop after which actors that only talk to each other have come to rest. */
const settlingTurns = 50;

/** Waits until what is ready to run has run. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < settlingTurns; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}
