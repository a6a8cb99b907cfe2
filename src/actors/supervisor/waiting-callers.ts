import { UsageError, type WeightcastError } from '../../errors.ts';
import type { Reply } from '../kernel/index.ts';
import type { ClusterStatus } from '../protocol/status-values.ts';
import type { InstanceRegistry } from './instance-registry.ts';
import type { RankRegistry } from './rank-registry.ts';

interface WaitingCaller {
  /** The instances that it waits for. */
  readonly instances: readonly string[];
  readonly reply: Reply<ClusterStatus>;
  /** Called before the reply when one of the instances has failed. */
  readonly onFailure: () => void;
}

/** Callers that wait until the ranks of instances are ready. */
export class WaitingCallers {
  readonly #instances: InstanceRegistry;
  readonly #ranks: RankRegistry;
  readonly #status: () => ClusterStatus;
  #callers: readonly WaitingCaller[] = [];

  constructor(instances: InstanceRegistry, ranks: RankRegistry, status: () => ClusterStatus) {
    this.#instances = instances;
    this.#ranks = ranks;
    this.#status = status;
  }

  add(caller: WaitingCaller): void {
    this.#callers = [...this.#callers, caller];
    this.answer();
  }

  /** Answers the callers that need not wait any longer. Called after every change of ranks or instances. */
  answer(): void {
    const answered = this.#callers.filter((one) => this.#failureOf(one) !== null || this.#isReady(one));
    this.#callers = this.#callers.filter((one) => !answered.includes(one));
    for (const one of answered) {
      const failure = this.#failureOf(one);
      if (failure === null) {
        one.reply.succeed(this.#status());
        continue;
      }
      one.onFailure();
      one.reply.fail(failure);
    }
  }

  #failureOf({ instances }: WaitingCaller): WeightcastError | null {
    return this.#instances.failureAmong(instances);
  }

  /** Instances that were removed meanwhile do not count. */
  #isReady({ instances }: WaitingCaller): boolean {
    const present = instances.filter((name) => this.#instances.names.includes(name));
    return present.every((name) => this.#ranks.areReady(this.#instances.options(name).ranks));
  }

  /** Fails the callers that wait for this instance alone: it was removed. */
  removed(instance: string): void {
    const isOver = ({ instances }: WaitingCaller) => instances.every((name) => name === instance);
    const failed = this.#callers.filter(isOver);
    this.#callers = this.#callers.filter((one) => !failed.includes(one));
    for (const { reply } of failed)
      reply.fail(new UsageError(`instance ${instance} was removed before it was ready`));
    this.answer();
  }
}
