interface Timer {
  readonly at: number;
  /** Timers that are due at the same time fire in the order in which they were set. */
  readonly order: number;
  /** Null when cancelled. Cancelled timers stay in the heap until they are due or outnumber the others. */
  callback: (() => void) | null;
}

/** Smaller heaps are not worth compacting. */
const compactThreshold = 1_024;

/** Timers in a binary heap. Most are deadlines, set far ahead and cancelled soon. */
export class TimerQueue {
  #heap: Timer[] = [];
  #order = 0;
  #live = 0;

  /** Number of timers that are set. */
  get size(): number {
    return this.#live;
  }

  set(at: number, callback: () => void): () => void {
    const timer: Timer = { at, order: this.#order, callback };
    this.#order += 1;
    this.#live += 1;
    this.#heap.push(timer);
    this.#rise(this.#heap.length - 1);
    return () => {
      if (timer.callback === null) return;
      timer.callback = null;
      this.#live -= 1;
      if (this.#heap.length > compactThreshold && this.#live * 2 < this.#heap.length) this.#compact();
    };
  }

  /** When the next timer is due; null if none is set. */
  nextAt(): number | null {
    while (this.#heap.length > 0 && this.#heap[0]!.callback === null) this.#removeFirst();
    return this.#heap[0]?.at ?? null;
  }

  /** Removes the next timer and returns its callback. */
  take(): () => void {
    const { callback } = this.#heap[0]!;
    this.#heap[0]!.callback = null;
    this.#live -= 1;
    this.#removeFirst();
    return callback!;
  }

  #compact(): void {
    // A sorted array is a heap.
    this.#heap = this.#heap
      .filter(({ callback }) => callback !== null)
      .sort((a, b) => (isBefore(a, b) ? -1 : 1));
  }

  #removeFirst(): void {
    const last = this.#heap.pop()!;
    if (this.#heap.length === 0) return;
    this.#heap[0] = last;
    this.#sink(0);
  }

  #rise(from: number): void {
    const timer = this.#heap[from]!;
    let at = from;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(timer, this.#heap[parent]!)) break;
      this.#heap[at] = this.#heap[parent]!;
      at = parent;
    }
    this.#heap[at] = timer;
  }

  #sink(from: number): void {
    const timer = this.#heap[from]!;
    let at = from;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= this.#heap.length) break;
      if (child + 1 < this.#heap.length && isBefore(this.#heap[child + 1]!, this.#heap[child]!)) child += 1;
      if (!isBefore(this.#heap[child]!, timer)) break;
      this.#heap[at] = this.#heap[child]!;
      at = child;
    }
    this.#heap[at] = timer;
  }
}

function isBefore(one: Timer, other: Timer): boolean {
  return one.at < other.at || (one.at === other.at && one.order < other.order);
}
