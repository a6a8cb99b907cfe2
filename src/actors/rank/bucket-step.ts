import type { WeightcastError } from '../../errors.ts';

interface Waiter {
  resolve(): void;
  reject(error: WeightcastError): void;
}

/** A step that every bucket takes once, for work that must not begin before a certain bucket has taken it. */
export class BucketStep {
  readonly #done = new Set<number>();
  readonly #waiters = new Map<number, Waiter>();
  #failure: WeightcastError | null = null;

  /** Marks the step of a bucket as taken. */
  complete(bucket: number): void {
    this.#done.add(bucket);
    this.#waiters.get(bucket)?.resolve();
    this.#waiters.delete(bucket);
  }

  /** Resolves when the bucket has taken the step, at once for bucket -1. One caller at a time may wait for a bucket. */
  completed(bucket: number): Promise<void> {
    if (this.#failure !== null) return Promise.reject(this.#failure);
    if (bucket < 0 || this.#done.has(bucket)) return Promise.resolve();
    return new Promise((resolve, reject) => this.#waiters.set(bucket, { resolve, reject }));
  }

  /** Rejects every wait, present and future, with this error. */
  abort(error: WeightcastError): void {
    this.#failure ??= error;
    for (const waiter of this.#waiters.values()) waiter.reject(this.#failure);
    this.#waiters.clear();
  }
}

/** Those of one exchange. */
export function bucketSteps() {
  return {
    /** Uploaded into its staging slot. */
    staged: new BucketStep(),
    /** Its broadcast has been issued, and may still be running. */
    issued: new BucketStep(),
    /** Its broadcast is done. */
    broadcast: new BucketStep(),
    /** Its reload has been requested, and may still be running. */
    requested: new BucketStep(),
  };
}
