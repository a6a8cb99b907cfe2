import { DeadlineError, UsageError, type WeightcastError } from '../../errors.ts';
import type { Context, Reply } from '../kernel/index.ts';
import { ranksOf } from '../protocol/instance.ts';
import type { ClusterStatus } from '../protocol/status-values.ts';
import type { SupervisorInbox } from './inbox.ts';
import type { InstanceRegistry } from './instance-registry.ts';
import { type RankRegistry, rankWords } from './rank-registry.ts';

interface WaitingCaller {
  /** The instances that it waits for. */
  readonly instances: readonly string[];
  readonly reply: Reply<ClusterStatus>;
  /** Called before the reply when one of the instances has failed. */
  readonly onFailure: () => void;
}

/** A rank that starts late says so first: its own deadline is this much earlier. */
const afterStartMilliseconds = 1_000;

/** Callers that wait until the ranks of instances are ready. */
export class WaitingCallers {
  readonly #instances: InstanceRegistry;
  readonly #ranks: RankRegistry;
  readonly #status: () => ClusterStatus;
  readonly #limitMilliseconds: number;
  /** By number, each with what cancels its deadline. */
  readonly #callers = new Map<number, WaitingCaller & { readonly cancel: () => void }>();
  #last = 0;
  #closedBy: WeightcastError | null = null;

  /** `startMilliseconds`: how long one start of a rank may take. */
  constructor(
    instances: InstanceRegistry,
    ranks: RankRegistry,
    startMilliseconds: number,
    status: () => ClusterStatus,
  ) {
    this.#instances = instances;
    this.#ranks = ranks;
    this.#limitMilliseconds = startMilliseconds + afterStartMilliseconds;
    this.#status = status;
  }

  add(caller: WaitingCaller, context: Context<SupervisorInbox>): void {
    if (this.#closedBy !== null) return caller.reply.fail(this.#closedBy);
    this.#last += 1;
    const cancel = context.schedule(this.#limitMilliseconds, { type: 'caller-late', caller: this.#last });
    this.#callers.set(this.#last, { ...caller, cancel });
    this.answer();
  }

  /** Answers all, and those that come later, with why nobody waits any more. */
  close(reason: WeightcastError): void {
    this.#closedBy = reason;
    for (const number of [...this.#callers.keys()]) this.#take(number)?.reply.fail(reason);
  }

  /** The deadline of that caller has passed. */
  late(number: number): void {
    const caller = this.#callers.get(number);
    if (caller === undefined) return;
    const missing = this.#ranksOf(caller).filter((rank) => !this.#ranks.areReady([rank]));
    const waited = `${this.#limitMilliseconds / 1_000} s (startTimeoutMilliseconds)`;
    this.#fail(number, caller, new DeadlineError(`${rankWords(missing)} not ready after ${waited}`));
  }

  /** Answers the callers that need not wait any longer. Called after every change of ranks or instances. */
  answer(): void {
    for (const [number, caller] of [...this.#callers]) {
      const failure = this.#instances.failureAmong(caller.instances);
      if (failure !== null) this.#fail(number, caller, failure);
      else if (this.#ranks.areReady(this.#ranksOf(caller))) this.#take(number)?.reply.succeed(this.#status());
    }
  }

  #fail(number: number, { onFailure, reply }: WaitingCaller, error: WeightcastError): void {
    if (this.#take(number) === null) return;
    onFailure();
    reply.fail(error);
  }

  /** Null if it was answered meanwhile. */
  #take(number: number): WaitingCaller | null {
    const caller = this.#callers.get(number) ?? null;
    caller?.cancel();
    this.#callers.delete(number);
    return caller;
  }

  /** Instances that were removed meanwhile do not count. */
  #ranksOf({ instances }: WaitingCaller): number[] {
    const present = instances.filter((name) => this.#instances.names.includes(name));
    return present.flatMap((name) => ranksOf(this.#instances.options(name)));
  }

  /** Fails the callers that wait for this instance alone: it was removed. */
  removed(instance: string): void {
    for (const [number, { instances }] of [...this.#callers]) {
      if (!instances.every((name) => name === instance)) continue;
      const error = new UsageError(`instance ${instance} was removed before it was ready`);
      this.#take(number)?.reply.fail(error);
    }
    this.answer();
  }
}
