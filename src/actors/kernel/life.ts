import { setMaxListeners } from 'node:events';
import { AbortedError, ActorStoppedError, asFailure, type WeightcastError } from '../../errors.ts';
import type { Clock, Logger, Random } from '../../ports.ts';
import type { Actor, AskOptions, Context, Down, Reply, SpawnOptions } from './actor.ts';
import type { Answer } from './asks.ts';
import { type ActorRef, formatRef, type ReplyOf, type Request } from './ref.ts';
import type { Delivery, Runtime } from './runtime.ts';

/** Each watch is stored on both sides. */
const watchLimit = 4_096;

/** What a life needs of the actor whose life it is. */
export interface LifeHost<M> {
  readonly ref: ActorRef<M>;
  readonly runtime: Runtime;
  /** True while a handler of this actor runs. */
  readonly isInTurn: boolean;
  spawn<C>(name: string, create: () => Actor<C>, options: SpawnOptions<C>): ActorRef<C>;
  /** Resolves at once for an actor that is not a child. */
  endChild(child: ActorRef<never>): Promise<void>;
  end(reason: string): Promise<void>;
  deliver(delivery: Delivery): void;
  crash(thrown: unknown): void;
}

/** One life of an actor, from `started` to `stopping`, as its behaviour sees it. */
export class Life<M> implements Context<M> {
  readonly behaviour: Actor<M>;
  readonly #host: LifeHost<M>;
  readonly #abort = new AbortController();
  readonly #watches = new Map<string, () => void>();
  readonly #timers = new Set<() => void>();
  /** Answers that were deferred and not given yet. */
  readonly #deferred = new Set<Answer>();
  #open = true;
  #ending = 'ended';
  #answer: Answer | null = null;

  constructor(host: LifeHost<M>, behaviour: Actor<M>) {
    this.#host = host;
    this.behaviour = behaviour;
    // Any amount of the actor's work may listen to it; Node warns from the eleventh listener on.
    setMaxListeners(0, this.signal);
  }

  get self(): ActorRef<M> {
    return this.#host.ref;
  }

  get clock(): Clock {
    return this.#host.runtime.clock;
  }

  get random(): Random {
    return this.#host.runtime.random;
  }

  get log(): Logger {
    return this.#host.runtime.log;
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  // ── what the actor's cell does with a life ───────────────────────────────────────────────────────────────────────

  set handling(delivery: Delivery | null) {
    this.#answer = delivery?.answer ?? null;
  }

  /** The answer to the message being handled, if it was not given yet. */
  get unanswered(): Answer | null {
    return this.#answer;
  }

  /** The life begins to end: aborts its signal and cancels its timers. */
  cancel(reason: string): void {
    this.#ending = reason;
    this.#abort.abort(new AbortedError(`${this.self.name}: ${reason}`));
    for (const cancel of this.#timers) cancel();
    this.#timers.clear();
  }

  close(): void {
    this.#open = false;
    for (const unwatch of this.#watches.values()) unwatch();
    this.#watches.clear();
    this.failDeferred(this.#ending);
  }

  /** Nobody who was told to wait for an answer waits for one that cannot come any more. */
  failDeferred(reason: string): void {
    for (const answer of this.#deferred) answer.fail(new ActorStoppedError(`${this.self.name} ${reason}`));
    this.#deferred.clear();
  }

  // ── what the behaviour does ──────────────────────────────────────────────────────────────────────────────────

  spawn<C>(name: string, create: () => Actor<C>, options: SpawnOptions<C> = {}): ActorRef<C> {
    return this.#host.spawn(name, create, options);
  }

  stop(child?: ActorRef<never>): Promise<void> {
    if (child !== undefined) return this.#host.endChild(child);
    const ended = this.#host.end('stopped');
    // Its own end waits for the handler that called this, which must not wait for it in turn.
    return this.#host.isInTurn ? Promise.resolve() : ended;
  }

  tell<T>(ref: ActorRef<T>, message: T): void {
    this.#host.runtime.tell(ref, message, this.self);
  }

  ask<T, Q extends T & Request<unknown>>(
    ref: ActorRef<T>,
    message: Q,
    options: AskOptions,
  ): Promise<ReplyOf<Q>> {
    // While the actor ends its own signal is aborted, but `stopping` may still have something to ask.
    return this.#host.runtime.ask(ref, message, options, this.signal.aborted ? undefined : this.signal);
  }

  reply<Q extends Request<unknown>>(_request: Q, answer: ReplyOf<Q>): void {
    this.#takeAnswer()?.succeed(answer);
  }

  fail(error: WeightcastError): void {
    this.#takeAnswer()?.fail(error);
  }

  deferReply<Q extends Request<unknown>>(_request: Q): Reply<ReplyOf<Q>> {
    const answer = this.#takeAnswer();
    if (answer === null) return { succeed: () => {}, fail: () => {} };
    this.#deferred.add(answer);
    const take = () => (this.#deferred.delete(answer) ? answer : null);
    return { succeed: (value) => take()?.succeed(value), fail: (error) => take()?.fail(error) };
  }

  watch(ref: ActorRef<never>, toMessage: (down: Down) => M): void {
    const key = formatRef(ref);
    if (this.#watches.has(key)) return;
    if (this.#watches.size >= watchLimit)
      throw new RangeError(`${this.self.name} watches ${watchLimit} actors, the maximum`);
    const unwatch = this.#host.runtime.watch(ref, (down) => {
      this.#watches.delete(key);
      this.#deliverToSelf(() => toMessage(down));
    });
    if (this.#host.runtime.isWatchable(ref)) this.#watches.set(key, unwatch);
  }

  unwatch(ref: ActorRef<never>): void {
    const key = formatRef(ref);
    this.#watches.get(key)?.();
    this.#watches.delete(key);
  }

  schedule(milliseconds: number, message: M): () => void {
    const cancel = this.clock.after(milliseconds, () => {
      this.#timers.delete(cancel);
      this.#deliverToSelf(() => message);
    });
    this.#timers.add(cancel);
    return () => {
      this.#timers.delete(cancel);
      cancel();
    };
  }

  pipe<T>(work: Promise<T>, onSuccess: (value: T) => M, onFailure: (error: WeightcastError) => M): void {
    work.then(
      (value) => this.#deliverToSelf(() => onSuccess(value)),
      (error) => this.#deliverToSelf(() => onFailure(asFailure(error))),
    );
  }

  #takeAnswer(): Answer | null {
    const answer = this.#answer;
    this.#answer = null;
    return answer;
  }

  #deliverToSelf(make: () => M): void {
    if (!this.#open || this.signal.aborted) return;
    try {
      this.#host.deliver({ message: make(), answer: null, isOwn: true });
    } catch (thrown) {
      this.#host.crash(thrown);
    }
  }
}
