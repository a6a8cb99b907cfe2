import {
  ActorStoppedError,
  DeadlineError,
  OverloadedError,
  UsageError,
  type WeightcastError,
} from '../../errors.ts';
import type { Clock, Logger, Random } from '../../ports.ts';
import { within } from '../../within.ts';
import type { Actor, AskOptions, Down, SpawnOptions } from './actor.ts';
import { Asks } from './asks.ts';
import { Cell, childLimit } from './cell.ts';
import { type LocalActors, Peers, toAddress } from './peers.ts';
import { type ActorAddress, type ActorRef, formatRef, type ReplyOf, type Request } from './ref.ts';
import { type Delivery, type Parent, type Runtime, type SystemCounters, typeOf } from './runtime.ts';
import type { PeerEvent, Transport } from './transport.ts';
import { type TurnCount, Turns } from './turns.ts';

export interface SystemOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** The way to other processes; null for none. */
  readonly transport?: Transport;
  /** An actor without a parent crashed and does not restart. By default this is only logged. */
  readonly onTopLevelCrash?: (ref: ActorRef<never>, error: WeightcastError) => void;
  /** Another process was connected, or is lost; called after actors were notified. */
  readonly onPeer?: (event: PeerEvent) => void;
  /** Kept up to date by the system; several may share one. */
  readonly turns?: TurnCount;
}

/** What a system holds at one moment. */
export interface SystemCensus {
  readonly actors: number;
  /** Messages that wait in mailboxes. */
  readonly queued: number;
  /** Asks of this process that are not answered yet. */
  readonly asks: number;
  /** Watches across processes, in either direction. */
  readonly watches: number;
}

/** All actors of one process, and their connection to those of other processes. */
export class ActorSystem implements Runtime, LocalActors {
  readonly node: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly turns: Turns;
  readonly counters: SystemCounters = {
    deadLetters: 0,
    refusedByMailbox: 0,
    invalidMessages: 0,
    lateAnswers: 0,
  };
  readonly #onTopLevelCrash: SystemOptions['onTopLevelCrash'];
  /** By name: at most one actor of a name at a time. */
  readonly #cells = new Map<string, Cell<never>>();
  /** Those without a parent, in order of their start. */
  readonly #topLevel = new Map<string, Cell<never>>();
  readonly #asks: Asks;
  readonly #peers: Peers;
  #generation = 0;
  #stopped = false;

  private constructor(options: SystemOptions) {
    const { clock, random, log, transport, onTopLevelCrash, onPeer, turns } = options;
    this.node = transport?.node ?? 'local';
    this.clock = clock;
    this.random = random;
    this.log = log;
    this.turns = new Turns(turns ?? { due: 0 });
    this.#onTopLevelCrash = onTopLevelCrash;
    this.#asks = new Asks(clock);
    this.#peers = new Peers(this, transport ?? null, this.#asks, onPeer);
  }

  static create(options: SystemOptions): ActorSystem {
    return new ActorSystem(options);
  }

  get census(): SystemCensus {
    let queued = 0;
    for (const cell of this.#cells.values()) queued += cell.queued;
    return { actors: this.#cells.size, queued, asks: this.#asks.size, watches: this.#peers.watches };
  }

  // ── what a main program does ─────────────────────────────────────────────────────────────────────────────────

  spawn<M>(name: string, create: () => Actor<M>, options: SpawnOptions<M> = {}): ActorRef<M> {
    if (this.#topLevel.size >= childLimit) {
      throw new OverloadedError(
        `${this.node} has ${childLimit} actors without a parent, the maximum; ${name} was not started`,
      );
    }
    const cell = this.make(null, name, create, options);
    this.#topLevel.set(name, cell as unknown as Cell<never>);
    return cell.ref;
  }

  /** A ref to the actor that has this name when a message arrives: for first contact only. */
  wellKnown<M>(node: string, name: string): ActorRef<M> {
    return { node, name, generation: 0 };
  }

  tell<T>(ref: ActorRef<T>, message: T, from: ActorAddress | null = null): void {
    if (ref.node === this.node) {
      this.#deliverHere(ref, { message, answer: null, isOwn: from !== null && isBelow(from, ref) });
      return;
    }
    try {
      this.#peers.send(ref.node, { kind: 'tell', to: toAddress(ref), from, body: message });
    } catch (error) {
      this.counters.deadLetters += 1;
      this.log.debug({ to: formatRef(ref), type: typeOf(message), error }, 'a message could not be sent');
    }
  }

  ask<T, Q extends T & Request<unknown>>(
    ref: ActorRef<T>,
    message: Q,
    { deadlineMilliseconds, signal }: AskOptions,
    lifetime?: AbortSignal,
  ): Promise<ReplyOf<Q>> {
    const signals = [lifetime, signal].filter((one) => one !== undefined);
    const limits = { deadlineMilliseconds, signals };
    const answer = this.#asks.open(ref, typeOf(message), limits, (id, settle) => {
      if (ref.node === this.node) this.#deliverHere(ref, { message, answer: settle });
      else this.#peers.send(ref.node, { kind: 'ask', to: toAddress(ref), from: null, id, body: message });
    });
    return answer as Promise<ReplyOf<Q>>;
  }

  watch(ref: ActorRef<never>, notify: (down: Down) => void): () => void {
    return ref.node === this.node ? this.#watchHere(ref, notify) : this.#peers.watch(ref, notify);
  }

  /**
   * Ends all actors, the last started first. Rejects with a `DeadlineError` that names those that did not end in
   * time.
   */
  async stop(deadlineMilliseconds: number): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    const ending = (async () => {
      for (const cell of [...this.#topLevel.values()].reverse()) await cell.end('the actor system stops');
    })();
    const inTime = await within(this.clock, deadlineMilliseconds, ending);
    const remaining = [...this.#cells.keys()];
    this.#asks.closeAll();
    this.halt();
    if (!inTime)
      throw new DeadlineError(`did not end in ${deadlineMilliseconds} ms: ${remaining.join(', ')}`);
  }

  /** Names of all actors that have not ended. */
  get names(): string[] {
    return [...this.#cells.keys()];
  }

  /** Injects a fault: the actor crashes as if a handler of it had thrown. Does nothing if there is no such actor. */
  crash(name: string, error: unknown): void {
    this.#cells.get(name)?.crash(error);
  }

  /** Ends everything at once: no actor takes another turn or is notified, as in a process that is killed. */
  halt(): void {
    this.#stopped = true;
    this.turns.halt();
  }

  // ── what cells do ────────────────────────────────────────────────────────────────────────────────────────────

  make<M>(parent: Parent | null, name: string, create: () => Actor<M>, options: SpawnOptions<M>): Cell<M> {
    if (this.#stopped) throw new ActorStoppedError(`the actor system has stopped and cannot start ${name}`);
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

  forget({ name }: ActorAddress): void {
    this.#cells.delete(name);
    this.#topLevel.delete(name);
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

  isWatchable(ref: ActorAddress): boolean {
    return ref.node !== this.node || this.find(ref) !== undefined;
  }

  // ── delivery ─────────────────────────────────────────────────────────────────────────────────────────────────

  find(ref: ActorAddress): Cell<never> | undefined {
    const cell = this.#cells.get(ref.name);
    if (cell === undefined || !cell.isLive) return undefined;
    return ref.generation === 0 || ref.generation === cell.ref.generation ? cell : undefined;
  }

  #deliverHere(ref: ActorAddress, delivery: Delivery): void {
    const cell = this.find(ref);
    if (cell === undefined) this.deadLetter(ref, delivery);
    else cell.deliver(delivery);
  }

  #watchHere(ref: ActorRef<never>, notify: (down: Down) => void): () => void {
    const cell = this.find(ref);
    if (cell === undefined) {
      notify({ ref, reason: ref.generation > this.#generation ? 'never existed' : 'stopped' });
      return () => {};
    }
    const key = {};
    cell.watch(key, notify);
    return () => cell.unwatch(key);
  }
}

/** Whether an actor is the other one itself or one of its children. */
function isBelow(one: ActorAddress, other: ActorAddress): boolean {
  return one.name === other.name || one.name.startsWith(`${other.name}/`);
}
