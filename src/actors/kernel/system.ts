import { type Ref, start as startNact, stop as stopNact } from 'nact';
import {
  ActorStoppedError,
  DeadlineError,
  fromWire,
  PeerLostError,
  ProtocolError,
  toWire,
  UsageError,
  type WeightcastError,
} from '../../errors.ts';
import type { Clock, Logger, Random } from '../../ports.ts';
import { within } from '../../within.ts';
import type { Actor, AskOptions, Down, SpawnOptions } from './actor.ts';
import { type Answer, Asks } from './asks.ts';
import { Cell, childLimit, type Delivery, typeOf } from './cell.ts';
import { DeathWatch } from './death-watch.ts';
import { type ActorAddress, type ActorRef, formatRef, type ReplyOf, type Request } from './ref.ts';
import type { Envelope, PeerEvent, Transport } from './transport.ts';

export interface SystemOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** Without one the system is alone. */
  readonly transport?: Transport;
  /** An actor without a parent has crashed for good. By default it is only logged. */
  readonly onTopLevelCrash?: (ref: ActorRef<never>, error: WeightcastError) => void;
  /** Kept up to date by the system; several may share one. */
  readonly turns?: TurnCount;
}

/** Turns that actors were given and have not begun. A simulation lets time pass only when there are none. */
export interface TurnCount {
  due: number;
}

/** What went wrong so far, for metrics and tests. */
export interface SystemCounters {
  deadLetters: number;
  refusedByMailbox: number;
  invalidMessages: number;
  lateAnswers: number;
}

/** What a system holds at one moment. */
export interface SystemCensus {
  readonly actors: number;
  /** Messages that wait in mailboxes. */
  readonly queued: number;
  /** Questions of this process that are not answered yet. */
  readonly asks: number;
  /** Watches across processes, of either end. */
  readonly watches: number;
}

/** All actors of one process, and their way to those of others. */
export class ActorSystem {
  readonly node: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly nact: Ref<never>;
  readonly counters: SystemCounters = {
    deadLetters: 0,
    refusedByMailbox: 0,
    invalidMessages: 0,
    lateAnswers: 0,
  };
  readonly #transport: Transport | null;
  readonly #onTopLevelCrash: SystemOptions['onTopLevelCrash'];
  readonly #turns: TurnCount;
  /** By name: at most one life of a name at a time. */
  readonly #cells = new Map<string, Cell<never>>();
  readonly #topLevel: Cell<never>[] = [];
  readonly #asks: Asks;
  readonly #deathWatch = new DeathWatch();
  #generation = 0;
  #turnsDue = 0;
  #stopped = false;
  #halted = false;

  private constructor(options: SystemOptions) {
    const { clock, random, log, transport, onTopLevelCrash, turns } = options;
    this.node = transport?.node ?? 'local';
    this.clock = clock;
    this.random = random;
    this.log = log;
    this.#transport = transport ?? null;
    this.#onTopLevelCrash = onTopLevelCrash;
    this.#turns = turns ?? { due: 0 };
    this.#asks = new Asks(clock);
    this.nact = startNact() as Ref<never>;
    transport?.listen(
      (from, envelope) => this.#receive(from, envelope),
      (event) => this.#peerChanged(event),
    );
  }

  static create(options: SystemOptions): ActorSystem {
    return new ActorSystem(options);
  }

  get census(): SystemCensus {
    let queued = 0;
    for (const cell of this.#cells.values()) queued += cell.queued;
    return { actors: this.#cells.size, queued, asks: this.#asks.size, watches: this.#deathWatch.size };
  }

  // ── what a main program does ─────────────────────────────────────────────────────────────────────────────────

  spawn<M>(name: string, create: () => Actor<M>, options: SpawnOptions<M> = {}): ActorRef<M> {
    if (this.#topLevel.length >= childLimit)
      throw new UsageError(`${childLimit} actors are at the top already`);
    const cell = this.make(null, name, create, options);
    this.#topLevel.push(cell as unknown as Cell<never>);
    return cell.ref;
  }

  /** A ref to whoever holds a name on another node now: for first contact only. */
  wellKnown<M>(node: string, name: string): ActorRef<M> {
    return { node, name, generation: 0 };
  }

  tell<T>(ref: ActorRef<T>, message: T, from: ActorAddress | null = null): void {
    if (ref.node === this.node) {
      this.#deliverHere(ref, { message, answer: null });
      return;
    }
    try {
      this.#send(ref.node, { kind: 'tell', to: address(ref), from, body: message });
    } catch (error) {
      this.counters.deadLetters += 1;
      this.log.debug({ to: formatRef(ref), type: typeOf(message), error }, 'a message could not be sent');
    }
  }

  ask<T, Q extends T & Request<unknown>>(
    ref: ActorRef<T>,
    message: Q,
    options: AskOptions,
  ): Promise<ReplyOf<Q>> {
    const question = this.#asks.open(ref, typeOf(message), options, (id, answer) => {
      if (ref.node === this.node) this.#deliverHere(ref, { message, answer });
      else this.#send(ref.node, { kind: 'ask', to: address(ref), from: null, id, body: message });
    });
    return question as Promise<ReplyOf<Q>>;
  }

  /** Calls `notify` once when the actor ends, at once if it has. The returned function ends the watch. */
  watch(ref: ActorRef<never>, notify: (down: Down) => void): () => void {
    return ref.node === this.node ? this.#watchHere(ref, notify) : this.#watchThere(ref, notify);
  }

  /** Ends all actors, the last started first. Rejects with `DeadlineError` naming those that would not end. */
  async stop(deadlineMilliseconds: number): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    const ending = (async () => {
      for (const cell of [...this.#topLevel].reverse()) await cell.end('the actor system stops');
    })();
    const inTime = await within(this.clock, deadlineMilliseconds, ending);
    const remaining = [...this.#cells.keys()];
    this.#asks.closeAll();
    this.halt();
    if (!inTime)
      throw new DeadlineError(`did not end in ${deadlineMilliseconds} ms: ${remaining.join(', ')}`);
  }

  /** Ends everything where it stands: no actor takes another turn, nobody is told. What a killed process does. */
  halt(): void {
    if (this.#halted) return;
    this.#stopped = true;
    this.turnDue(-this.#turnsDue);
    this.#halted = true;
    stopNact(this.nact as never);
  }

  // ── what cells do ────────────────────────────────────────────────────────────────────────────────────────────

  make<M>(
    parent: Cell<never> | null,
    name: string,
    create: () => Actor<M>,
    options: SpawnOptions<M>,
  ): Cell<M> {
    if (this.#stopped) throw new ActorStoppedError(`the actor system has stopped and starts no ${name}`);
    if (this.#cells.has(name)) throw new UsageError(`an actor named ${name} is running already`);
    this.#generation += 1;
    const cell = new Cell<M>(
      this,
      parent,
      { node: this.node, name, generation: this.#generation },
      create,
      options,
    );
    this.#cells.set(name, cell as unknown as Cell<never>);
    return cell;
  }

  turnDue(change: number): void {
    if (this.#halted) return;
    this.#turnsDue += change;
    this.#turns.due += change;
  }

  forget(ref: ActorAddress): void {
    this.#cells.delete(ref.name);
    const at = this.#topLevel.findIndex((cell) => cell.ref.generation === ref.generation);
    if (at >= 0) this.#topLevel.splice(at, 1);
  }

  topLevelCrashed(ref: ActorRef<never>, error: WeightcastError): void {
    this.log.error({ actor: ref.name, error: error.message }, 'an actor without a parent has crashed');
    this.#onTopLevelCrash?.(ref, error);
  }

  deadLetter(to: ActorAddress, { message, answer }: Delivery): void {
    this.counters.deadLetters += 1;
    this.log.debug({ to: formatRef(to), type: typeOf(message) }, 'dead letter');
    answer?.fail(
      new ActorStoppedError(`${formatRef(to)} has stopped or never was; ${typeOf(message)} did not reach it`),
    );
  }

  refused(to: ActorAddress, { message, answer }: Delivery, error: WeightcastError): void {
    this.counters.refusedByMailbox += 1;
    this.log.debug({ to: formatRef(to), type: typeOf(message) }, error.message);
    answer?.fail(error);
  }

  /** False for an actor of this node that has ended: a watch on it has fired already. */
  isWatchable(ref: ActorAddress): boolean {
    return ref.node !== this.node || this.#find(ref) !== undefined;
  }

  // ── delivery ─────────────────────────────────────────────────────────────────────────────────────────────────

  #find(ref: ActorAddress): Cell<never> | undefined {
    const cell = this.#cells.get(ref.name);
    if (cell === undefined || !cell.isLive) return undefined;
    return ref.generation === 0 || ref.generation === cell.ref.generation ? cell : undefined;
  }

  #deliverHere(ref: ActorAddress, delivery: Delivery): void {
    const cell = this.#find(ref);
    if (cell === undefined) this.deadLetter(ref, delivery);
    else cell.deliver(delivery);
  }

  #send(node: string, envelope: Envelope): void {
    if (this.#transport === null)
      throw new PeerLostError(`${node} is out of reach: this process has no transport`);
    this.#transport.send(node, envelope);
  }

  /** What is sent on behalf of no one: if the other node is gone, so is the need. */
  #sendIfReachable(node: string, envelope: Envelope): void {
    try {
      this.#send(node, envelope);
    } catch (error) {
      this.log.debug({ node, kind: envelope.kind, error }, 'an answer could not be sent');
    }
  }

  #receive(from: string, envelope: Envelope): void {
    switch (envelope.kind) {
      case 'tell':
        return this.#accept(envelope.to, envelope.body, null);
      case 'ask':
        return this.#accept(envelope.to, envelope.body, this.#answerTo(from, envelope.id));
      case 'reply':
      case 'failure': {
        const answer = this.#asks.take(envelope.id, from);
        if (answer === undefined) this.counters.lateAnswers += 1;
        else if (envelope.kind === 'reply') answer.succeed(envelope.body);
        else answer.fail(fromWire(envelope.error));
        return;
      }
      case 'watch':
        return this.#watchedFrom(from, envelope.watcher, envelope.target);
      case 'unwatch':
        return this.#deathWatch.removeIncoming(from, envelope.watcher, envelope.target);
      case 'down':
        return this.#deathWatch.fire(envelope.target, envelope.reason);
    }
  }

  #answerTo(node: string, id: number): Answer {
    const fail = (error: unknown) =>
      this.#sendIfReachable(node, { kind: 'failure', id, error: toWire(error) });
    return {
      succeed: (body) => {
        try {
          this.#send(node, { kind: 'reply', id, body });
        } catch (error) {
          // An answer that is too large, or of no form that travels: whoever asked must not wait for it.
          fail(error);
        }
      },
      fail,
    };
  }

  /** Lets a message from another process in if it has the form that its receiver declares. */
  #accept(to: ActorAddress, body: unknown, answer: Answer | null): void {
    const cell = this.#find(to);
    if (cell === undefined) return this.deadLetter(to, { message: body, answer });
    const parsed = cell.accepts?.safeParse(body);
    if (parsed?.success) return cell.deliver({ message: parsed.data, answer });
    const issue = parsed?.error.issues[0];
    const why =
      issue === undefined
        ? 'it takes no messages from other processes'
        : `${issue.path.join('.')}: ${issue.message}`;
    const error = new ProtocolError(`${to.name} refuses ${typeOf(body)}: ${why}`);
    this.counters.invalidMessages += 1;
    this.log.warn({ to: formatRef(to) }, error.message);
    answer?.fail(error);
  }

  // ── death watch ──────────────────────────────────────────────────────────────────────────────────────────────

  #watchHere(ref: ActorRef<never>, notify: (down: Down) => void): () => void {
    const cell = this.#find(ref);
    if (cell === undefined) {
      notify({ ref, reason: ref.generation > this.#generation ? 'never existed' : 'stopped' });
      return () => {};
    }
    const key = {};
    cell.watch(key, notify);
    return () => cell.unwatch(key);
  }

  #watchThere(ref: ActorRef<never>, notify: (down: Down) => void): () => void {
    const watcher = { node: this.node, name: 'kernel', generation: 0 };
    const target = address(ref);
    if (this.#deathWatch.add(ref, notify)) {
      try {
        this.#send(ref.node, { kind: 'watch', target, watcher });
      } catch (error) {
        this.#deathWatch.fire(ref, `${ref.node} is out of reach: ${(error as Error).message}`);
      }
    }
    return () => {
      if (!this.#deathWatch.remove(ref, notify)) return;
      this.#sendIfReachable(ref.node, { kind: 'unwatch', target, watcher });
    };
  }

  #watchedFrom(node: string, watcher: ActorAddress, target: ActorAddress): void {
    const end = this.#watchHere(target, ({ reason }) => {
      this.#sendIfReachable(node, { kind: 'down', target, watcher, reason });
    });
    if (this.isWatchable(target)) this.#deathWatch.addIncoming(node, watcher, target, end);
  }

  #peerChanged({ node, state, reason }: PeerEvent): void {
    if (state === 'up') return;
    this.#asks.nodeLost(node, reason);
    this.#deathWatch.nodeLost(node, reason);
  }
}

function address({ node, name, generation }: ActorAddress): ActorAddress {
  return { node, name, generation };
}
