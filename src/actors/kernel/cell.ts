import { strict as assert } from 'node:assert';
import {
  ActorStoppedError,
  asFailure,
  describe,
  OverloadedError,
  ProtocolError,
  WeightcastError,
} from '../../errors.ts';
import { within } from '../../within.ts';
import type { Actor, Down, SpawnOptions, SupervisionPolicy } from './actor.ts';
import { Life, type LifeHost } from './life.ts';
import { Mailbox } from './mailbox.ts';
import type { ActorAddress, ActorRef } from './ref.ts';
import { type Child, type Delivery, type Parent, type Runtime, typeOf } from './runtime.ts';
import { RestartIntensity } from './supervision.ts';
import type { ActorTurns } from './turns.ts';

/** Children of one actor, and actors without a parent: far above any real need, so more are a leak. */
export const childLimit = 4_096;

const defaultMailbox = { limit: 10_000, whenFull: 'reject' } as const;
const defaultSupervision: SupervisionPolicy = { onCrash: 'escalate' };

const defaultEndingMilliseconds = 5_000;

type State = 'new' | 'running' | 'restarting' | 'ending' | 'ended';

/** One actor under one ref, across all its lives. */
export class Cell<M> implements LifeHost<M>, Child<M>, Parent {
  readonly ref: ActorRef<M>;
  readonly runtime: Runtime;
  readonly #create: () => Actor<M>;
  readonly #options: SpawnOptions<M>;
  readonly #parent: Parent | null;
  /** By name, in order of their start. */
  readonly #children = new Map<string, Child<never>>();
  readonly #mailbox: Mailbox<Delivery>;
  readonly #intensity: RestartIntensity | null;
  readonly #watchers = new Map<object, (down: Down) => void>();
  readonly #turns: ActorTurns;

  #state: State = 'new';
  #life: Life<M> | null = null;
  /** Settles with the turn that is running. */
  #turn: Promise<void> | null = null;
  /** Settles when the life that is ending has ended. */
  #lifeEnd: Promise<void> | null = null;
  #cancelBackoff = () => {};
  #ended: Promise<void> | null = null;

  constructor(
    runtime: Runtime,
    parent: Parent | null,
    ref: ActorRef<M>,
    create: () => Actor<M>,
    options: SpawnOptions<M>,
  ) {
    this.runtime = runtime;
    this.ref = ref;
    this.#parent = parent;
    this.#create = create;
    this.#options = options;
    this.#mailbox = new Mailbox(options.mailbox ?? defaultMailbox);
    const { onCrash } = this.#supervision;
    this.#intensity =
      onCrash === 'restart'
        ? new RestartIntensity(this.#supervision as never, runtime.clock, runtime.random)
        : null;
    this.#turns = runtime.turns.add(
      () => this.#takeTurn(),
      () => this.#hasWork,
    );
    this.#turns.request();
  }

  get isLive(): boolean {
    return this.#state !== 'ended';
  }

  /** Messages that wait. */
  get queued(): number {
    return this.#mailbox.size;
  }

  get accepts(): SpawnOptions<M>['accepts'] {
    return this.#options.accepts;
  }

  // ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────

  deliver(delivery: Delivery): void {
    if (this.#state === 'ending' || this.#state === 'ended') {
      this.runtime.deadLetter(this.ref, delivery);
      return;
    }
    const isSignal = this.#options.isSignal?.(delivery.message as M) ?? false;
    const { isOwn = false } = delivery;
    const push = isSignal ? this.#mailbox.pushSignal(delivery, isOwn) : this.#mailbox.push(delivery, isOwn);
    const refused = push.accepted ? push.dropped : delivery;
    if (refused !== null)
      this.runtime.refused(this.ref, refused, new OverloadedError(`the mailbox of ${this.ref.name} is full`));
    if (this.#hasWork) this.#turns.request();
  }

  get #hasWork(): boolean {
    return this.#state === 'new' || (this.#state === 'running' && this.#mailbox.size > 0);
  }

  async #takeTurn(): Promise<void> {
    let endTurn = () => {};
    this.#turn = new Promise((resolve) => {
      endTurn = resolve;
    });
    if (this.#state === 'new') await this.#begin();
    else await this.#handleNext();
    this.#turn = null;
    endTurn();
  }

  async #begin(): Promise<void> {
    let life: Life<M> | null = null;
    try {
      life = new Life(this, this.#create());
      this.#life = life;
      this.#state = 'running';
      await life.behaviour.started?.(life);
    } catch (thrown) {
      if (this.#life === life) this.crash(thrown);
    }
  }

  async #handleNext(): Promise<void> {
    const life = this.#life;
    if (this.#state !== 'running' || life === null) return;
    const delivery = this.#mailbox.shift();
    if (delivery === undefined) return;
    life.handling = delivery;
    try {
      await life.behaviour.receive(delivery.message as M, life);
      life.unanswered?.fail(
        new ProtocolError(`${this.ref.name} gave no answer to ${typeOf(delivery.message)}`),
      );
    } catch (thrown) {
      const what = `${this.ref.name} crashed on ${typeOf(delivery.message)}: ${describe(thrown)}`;
      life.unanswered?.fail(thrown instanceof WeightcastError ? thrown : new WeightcastError(what));
      // A handler that outlived its life crashes nothing any more.
      if (this.#life === life) this.crash(thrown);
    } finally {
      life.handling = null;
    }
  }

  // ── children ─────────────────────────────────────────────────────────────────────────────────────────────────

  spawn<C>(name: string, create: () => Actor<C>, options: SpawnOptions<C>): ActorRef<C> {
    if (this.#state !== 'running')
      throw new ActorStoppedError(`${this.ref.name} is ending and cannot start ${name}`);
    if (this.#children.size >= childLimit) {
      throw new OverloadedError(
        `${this.ref.name} has ${childLimit} children, the maximum; ${name} was not started`,
      );
    }
    const child = this.runtime.make(this, `${this.ref.name}/${name}`, create, options);
    this.#children.set(child.ref.name, child as unknown as Child<never>);
    return child.ref;
  }

  endChild(ref: ActorRef<never>): Promise<void> {
    const child = this.#children.get(ref.name);
    return child?.ref.generation === ref.generation ? child.end('stopped') : Promise.resolve();
  }

  childEnded(child: ActorAddress): void {
    this.#children.delete(child.name);
  }

  childCrashed(error: WeightcastError): void {
    this.crash(error);
  }

  // ── crashes ──────────────────────────────────────────────────────────────────────────────────────────────────

  get #supervision(): SupervisionPolicy {
    return this.#options.supervision ?? defaultSupervision;
  }

  /** Decides what a throw leads to. The throw may have come from this actor or, escalated, from a child. */
  crash(thrown: unknown): void {
    // An actor that restarts ends all its children: what they throw meanwhile is part of the same crash.
    if (this.#state === 'restarting' || this.#state === 'ending' || this.#state === 'ended') return;
    const error = asFailure(thrown);
    const reason = `crashed: ${error.message}`;
    // At once: what its `stopping` would answer after a crash is no better than the crash.
    this.#life?.failDeferred(reason);
    const delay = this.#intensity?.next() ?? null;
    if (delay !== null) {
      this.runtime.log.warn({ actor: this.ref.name, reason, delay }, 'actor restarts');
      this.#restart(delay);
      return;
    }
    this.runtime.log.debug({ actor: this.ref.name, reason }, 'actor ends');
    const escalate = this.#supervision.onCrash !== 'stop';
    this.end(reason).then(() => {
      if (!escalate) return;
      if (this.#parent === null) this.runtime.topLevelCrashed(this.ref, error);
      else this.#parent.childCrashed(error);
    });
  }

  /** The ref and the mailbox stay; state, children, asks and timers of the old life go. */
  async #restart(delayMilliseconds: number): Promise<void> {
    this.#state = 'restarting';
    await this.#endLife('restarting');
    if (this.#state !== 'restarting') return;
    this.#cancelBackoff = this.runtime.clock.after(delayMilliseconds, () => {
      this.#state = 'new';
      this.#turns.request();
    });
  }

  // ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

  end(reason: string): Promise<void> {
    this.#ended ??= this.#end(reason);
    return this.#ended;
  }

  async #end(reason: string): Promise<void> {
    this.#state = 'ending';
    this.#cancelBackoff();
    await this.#endLife(reason);
    this.#turns.remove();
    this.#state = 'ended';
    for (const delivery of this.#mailbox.drain()) this.runtime.deadLetter(this.ref, delivery);
    this.#parent?.childEnded(this.ref);
    this.runtime.forget(this.ref);
    const down: Down = { ref: this.ref as ActorRef<never>, reason };
    for (const notify of this.#watchers.values()) notify(down);
    this.#watchers.clear();
  }

  /** Ends the present life. While one is ending already, as during a restart, waits for that. */
  #endLife(reason: string): Promise<void> {
    this.#lifeEnd ??= this.#endPresentLife(reason).finally(() => {
      this.#lifeEnd = null;
    });
    return this.#lifeEnd;
  }

  async #endPresentLife(reason: string): Promise<void> {
    const life = this.#life;
    this.#life = null;
    life?.cancel(reason);
    await this.#bounded('the handler that was running', this.#turn ?? Promise.resolve());
    for (const child of [...this.#children.values()].reverse())
      await child.end(`its parent ${this.ref.name} ends`);
    if (life === null) return;
    await this.#bounded('`stopping`', (async () => life.behaviour.stopping?.(life))());
    life.close();
  }

  async #bounded(what: string, work: Promise<unknown>): Promise<void> {
    const { endingMilliseconds = defaultEndingMilliseconds } = this.#options;
    try {
      if (await within(this.runtime.clock, endingMilliseconds, work)) return;
      this.runtime.log.warn({ actor: this.ref.name }, `${what} did not end in ${endingMilliseconds} ms`);
    } catch (thrown) {
      this.runtime.log.warn(
        { actor: this.ref.name, error: describe(thrown) },
        `${what} failed while the actor ended`,
      );
    }
  }

  // ── death watch ──────────────────────────────────────────────────────────────────────────────────────────────

  watch(key: object, notify: (down: Down) => void): void {
    assert(this.#state !== 'ended', 'the system answers watches on ended actors');
    this.#watchers.set(key, notify);
  }

  unwatch(key: object): void {
    this.#watchers.delete(key);
  }

  get isInTurn(): boolean {
    return this.#turn !== null;
  }
}
