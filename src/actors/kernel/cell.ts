import { strict as assert } from 'node:assert';
import { dispatch, type Ref, spawn as spawnNact, stop as stopNact } from 'nact';
import {
  ActorStoppedError,
  asFailure,
  describe,
  OverloadedError,
  ProtocolError,
  UsageError,
  WeightcastError,
} from '../../errors.ts';
import { within } from '../../within.ts';
import type { Actor, Down, SpawnOptions, SupervisionPolicy } from './actor.ts';
import type { Answer } from './asks.ts';
import { Life } from './life.ts';
import { Mailbox } from './mailbox.ts';
import type { ActorRef } from './ref.ts';
import { RestartIntensity } from './supervision.ts';
import type { ActorSystem } from './system.ts';

/** A message on its way to an actor, with where its answer goes if it was asked. */
export interface Delivery {
  readonly message: unknown;
  readonly answer: Answer | null;
}

export const childLimit = 4_096;
const defaultMailbox = { limit: 10_000, whenFull: 'reject' } as const;
const defaultSupervision: SupervisionPolicy = { onCrash: 'escalate' };

/** How long a handler or `stopping` may take while its actor ends; then the rest goes on without it. */
const endingDeadlineMilliseconds = 5_000;

type State = 'new' | 'running' | 'restarting' | 'ending' | 'ended';

/**
 * One actor under one ref, across all its lives. nact carries the tree and gives the turns; everything that nact
 * leaves open is decided here. nact never holds more than one token of ours, so the mailbox that counts is this one.
 */
export class Cell<M> {
  readonly ref: ActorRef<M>;
  readonly system: ActorSystem;
  readonly nact: Ref<null>;
  readonly #create: () => Actor<M>;
  readonly #options: SpawnOptions<M>;
  readonly #parent: Cell<never> | null;
  readonly #children: Cell<never>[] = [];
  readonly #mailbox: Mailbox<Delivery>;
  readonly #intensity: RestartIntensity | null;
  readonly #watchers = new Map<object, (down: Down) => void>();

  #state: State = 'new';
  #life: Life<M> | null = null;
  #turn: Promise<void> | null = null;
  #tokenGiven = false;
  #ended: Promise<void> | null = null;

  constructor(
    system: ActorSystem,
    parent: Cell<never> | null,
    ref: ActorRef<M>,
    create: () => Actor<M>,
    options: SpawnOptions<M>,
  ) {
    this.system = system;
    this.ref = ref;
    this.#parent = parent;
    this.#create = create;
    this.#options = options;
    this.#mailbox = new Mailbox(options.mailbox ?? defaultMailbox);
    const { onCrash } = this.#supervision;
    this.#intensity =
      onCrash === 'restart'
        ? new RestartIntensity(this.#supervision as never, system.clock, system.random)
        : null;
    // A name of nact's own making: ours may be reused before nact has let go of the old one.
    const name = `${ref.name.replaceAll('/', '.')}-${ref.generation}`;
    this.nact = spawnNact(parent?.nact ?? system.nact, () => this.#takeTurn(), name, {
      initialState: null,
      // Turns never throw; should one do so all the same, the actor stops.
      onCrash: (_message, _error, context) => context.stop,
    }) as Ref<null>;
    this.#wake();
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
      this.system.deadLetter(this.ref, delivery);
      return;
    }
    const isSignal = this.#options.isSignal?.(delivery.message as M) ?? false;
    const push = isSignal ? this.#mailbox.pushSignal(delivery) : this.#mailbox.push(delivery);
    const refused = push.accepted ? push.dropped : delivery;
    if (refused !== null)
      this.system.refused(this.ref, refused, new OverloadedError(`the mailbox of ${this.ref.name} is full`));
    this.#wake();
  }

  #wake(): void {
    const hasWork = this.#state === 'new' || (this.#state === 'running' && this.#mailbox.size > 0);
    if (!hasWork || this.#tokenGiven) return;
    this.#tokenGiven = true;
    this.system.turnDue(1);
    dispatch(this.nact as never, null as never);
  }

  async #takeTurn(): Promise<null> {
    this.system.turnDue(-1);
    let endTurn = () => {};
    this.#turn = new Promise((resolve) => {
      endTurn = resolve;
    });
    if (this.#state === 'new') await this.#begin();
    else await this.#handleNext();
    this.#turn = null;
    endTurn();
    this.#tokenGiven = false;
    this.#wake();
    return null;
  }

  async #begin(): Promise<void> {
    try {
      const behaviour = this.#create();
      this.#life = new Life(this, behaviour);
      this.#state = 'running';
      await behaviour.started?.(this.#life);
    } catch (thrown) {
      this.crash(thrown);
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
      this.crash(thrown);
    } finally {
      life.handling = null;
    }
  }

  // ── children ─────────────────────────────────────────────────────────────────────────────────────────────────

  spawn<C>(name: string, create: () => Actor<C>, options: SpawnOptions<C>): ActorRef<C> {
    if (this.#state !== 'running')
      throw new ActorStoppedError(`${this.ref.name} is ending and starts no ${name}`);
    if (this.#children.length >= childLimit) {
      throw new UsageError(
        `${this.ref.name} has ${childLimit} children, the most there may be; ${name} is one more`,
      );
    }
    const child = this.system.make(
      this as unknown as Cell<never>,
      `${this.ref.name}/${name}`,
      create,
      options,
    );
    this.#children.push(child as unknown as Cell<never>);
    return child.ref;
  }

  childNamed(ref: ActorRef<never>): Cell<never> | undefined {
    return this.#children.find(
      (child) => child.ref.name === ref.name && child.ref.generation === ref.generation,
    );
  }

  #childEnded(child: Cell<never>): void {
    const at = this.#children.indexOf(child);
    if (at >= 0) this.#children.splice(at, 1);
  }

  // ── crashes ──────────────────────────────────────────────────────────────────────────────────────────────────

  get #supervision(): SupervisionPolicy {
    return this.#options.supervision ?? defaultSupervision;
  }

  /** Decides what a throw leads to. The throw may have come from this actor or, escalated, from a child. */
  crash(thrown: unknown): void {
    if (this.#state === 'ending' || this.#state === 'ended') return;
    const error = asFailure(thrown);
    const reason = `crashed: ${error.message}`;
    const delay = this.#intensity?.next() ?? null;
    if (delay !== null) {
      this.system.log.warn({ actor: this.ref.name, reason, delay }, 'actor restarts');
      this.#restart(delay);
      return;
    }
    this.system.log.debug({ actor: this.ref.name, reason }, 'actor ends');
    const escalate = this.#supervision.onCrash !== 'stop';
    this.end(reason).then(() => {
      if (!escalate) return;
      if (this.#parent === null) this.system.topLevelCrashed(this.ref, error);
      else this.#parent.crash(error);
    });
  }

  /** The ref and the mailbox stay; state, children, asks and timers of the old life go. */
  async #restart(delayMilliseconds: number): Promise<void> {
    this.#state = 'restarting';
    await this.#endLife('restarting');
    await new Promise<void>((resolve) => this.system.clock.after(delayMilliseconds, resolve));
    if (this.#state !== 'restarting') return;
    this.#state = 'new';
    this.#wake();
  }

  // ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** Ends the actor and all below it. Never rejects; further calls wait for the same end. */
  end(reason: string): Promise<void> {
    this.#ended ??= this.#end(reason);
    return this.#ended;
  }

  async #end(reason: string): Promise<void> {
    this.#state = 'ending';
    await this.#endLife(reason);
    stopNact(this.nact as never);
    if (this.#tokenGiven && this.#turn === null) this.system.turnDue(-1);
    this.#state = 'ended';
    for (const delivery of this.#mailbox.drain()) this.system.deadLetter(this.ref, delivery);
    if (this.#parent !== null) this.#parent.#childEnded(this as unknown as Cell<never>);
    this.system.forget(this.ref);
    const down: Down = { ref: this.ref as ActorRef<never>, reason };
    for (const notify of this.#watchers.values()) notify(down);
    this.#watchers.clear();
  }

  async #endLife(reason: string): Promise<void> {
    const life = this.#life;
    this.#life = null;
    life?.cancel(reason);
    await this.#bounded('the handler that was running', this.#turn ?? Promise.resolve());
    for (const child of [...this.#children].reverse()) await child.end(`its parent ${this.ref.name} ends`);
    if (life === null) return;
    await this.#bounded('`stopping`', (async () => life.behaviour.stopping?.(life))());
    life.close();
  }

  async #bounded(what: string, work: Promise<unknown>): Promise<void> {
    try {
      if (await within(this.system.clock, endingDeadlineMilliseconds, work)) return;
      this.system.log.warn(
        { actor: this.ref.name },
        `${what} did not end in ${endingDeadlineMilliseconds} ms`,
      );
    } catch (thrown) {
      this.system.log.warn(
        { actor: this.ref.name, error: describe(thrown) },
        `${what} failed while the actor ended`,
      );
    }
  }

  // ── death watch ──────────────────────────────────────────────────────────────────────────────────────────────

  watch(key: object, notify: (down: Down) => void): void {
    assert(this.#state !== 'ended', 'an ended actor is answered for by the system');
    this.#watchers.set(key, notify);
  }

  unwatch(key: object): void {
    this.#watchers.delete(key);
  }

  /** True while the code that runs now was called by this actor's own handler. */
  get isInTurn(): boolean {
    return this.#turn !== null;
  }
}

export function typeOf(message: unknown): string {
  const type = (message as { type?: unknown } | null)?.type;
  return typeof type === 'string' ? type : 'a message';
}
