import { WorkerLinkError } from '../../errors.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { UpdateContext, UpdateTarget } from './context.ts';

/**
 * Of the workers of one engine, which have connected to their ranks. An engine calls all of them at the same time, but when
 * it does is its own affair, as it may have requests to end before: so the others' time runs from the first one on, and that of
 * all from the moment when the engine says that it is done.
 */
export class Arrival {
  /** Rejects with `WorkerLinkError` when others have not connected in time; it is noted then as the failure of their ranks. */
  readonly late: Promise<never>;
  readonly #update: UpdateContext;
  readonly #target: UpdateTarget;
  readonly #missing: Set<number>;
  #reject!: (error: WorkerLinkError) => void;
  #cancel: (() => void) | null = null;

  constructor(update: UpdateContext, target: UpdateTarget) {
    this.#update = update;
    this.#target = target;
    this.#missing = new Set(target.ranks);
    this.late = new Promise((_, reject) => {
      this.#reject = reject;
    });
  }

  arrived(rank: number): void {
    this.#missing.delete(rank);
    this.#wait('of another one');
  }

  /** The engine has answered that it is updated. */
  answered(): void {
    if (this.#missing.size > 0) this.#wait("of its engine's answer that it is updated");
  }

  /** From here on nobody waits: whoever still arrives makes no others late. */
  end(): void {
    this.#cancel?.();
    this.#cancel = () => {};
  }

  get #milliseconds(): number {
    return this.#update.spec.options.connectTimeoutMilliseconds ?? deadlines.connectWorkers;
  }

  #wait(since: string): void {
    this.#cancel ??= this.#update.context.clock.after(this.#milliseconds, () => this.#fail(since));
  }

  #fail(since: string): void {
    const { name, endpoint } = this.#target;
    const missing = [...this.#missing];
    const error = new WorkerLinkError(
      `no worker of instance ${name} (${endpoint}) has connected to rank ${missing.join(', ')} within ${this.#milliseconds} ms ${since}: give the instance as many ranks as its engine has workers, or the workers more time (connectTimeoutMilliseconds, --connect-timeout)`,
    );
    for (const rank of missing) this.#update.failures.ofRank(rank, error);
    this.#reject(error);
  }
}
