import { AbortedError, asFailure, type WeightcastError } from '../../errors.ts';

/** What a transfer has begun that takes time, on the device, among ranks or in the engine worker. */
export class InFlight {
  readonly #running = new Set<Promise<unknown>>();
  #aborted: AbortedError | null = null;
  #failure: WeightcastError | null = null;

  /** The first that has failed by itself, and not as all were aborted; null if none has. */
  get failure(): WeightcastError | null {
    return this.#failure;
  }

  /** Rejects as `begin`, and with the reason of the abort after that. */
  async track<T>(begin: () => Promise<T>): Promise<T> {
    if (this.#aborted !== null) throw this.#aborted;
    const work = begin();
    this.#running.add(work);
    try {
      return await work;
    } catch (thrown) {
      if (!(thrown instanceof AbortedError)) this.#failure ??= asFailure(thrown);
      throw thrown;
    } finally {
      this.#running.delete(work);
    }
  }

  /** Nothing begins from here on. What runs goes on. */
  abort(reason: AbortedError): void {
    this.#aborted = reason;
  }

  /** Resolves when nothing of what runs now does any more. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#running);
  }
}
