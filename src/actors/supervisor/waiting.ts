import type { WeightcastError } from '../../errors.ts';
import type { Reply } from '../kernel/index.ts';
import type { ClusterStatus } from '../protocol/status-values.ts';
import type { Instances } from './instance-registry.ts';
import type { Members } from './rank-registry.ts';

interface Waiter {
  /** Whose ranks and bridges are to be there. */
  readonly instances: readonly string[];
  readonly reply: Reply<ClusterStatus>;
  /** Called when they will never be, before the reply. */
  readonly onFailure: () => void;
}

/** Those who wait for instances to be ready. */
export class ReadyWaiters {
  readonly #instances: Instances;
  readonly #members: Members;
  #waiting: readonly Waiter[] = [];

  constructor(instances: Instances, members: Members) {
    this.#instances = instances;
    this.#members = members;
  }

  add(waiter: Waiter): void {
    this.#waiting = [...this.#waiting, waiter];
  }

  /** Answers whoever need not wait any more; called after every change. */
  answer(status: () => ClusterStatus): void {
    const answered = this.#waiting.filter((one) => this.#failureOf(one) !== null || this.#isReady(one));
    this.#waiting = this.#waiting.filter((one) => !answered.includes(one));
    for (const one of answered) {
      const failure = this.#failureOf(one);
      if (failure === null) {
        one.reply.succeed(status());
        continue;
      }
      one.onFailure();
      one.reply.fail(failure);
    }
  }

  #failureOf({ instances }: Waiter): WeightcastError | null {
    return this.#instances.failureAmong(instances);
  }

  /** Those that were removed meanwhile are not waited for. */
  #isReady({ instances }: Waiter): boolean {
    const present = instances.filter((name) => this.#instances.names.includes(name));
    return present.every((name) => {
      return this.#instances.isOpen(name) && this.#members.areReady(this.#instances.options(name).ranks);
    });
  }
}
