import type { WeightcastError } from '../../errors.ts';
import type { Clock, Logger, Random } from '../../ports.ts';
import type { Actor, AskOptions, Down, SpawnOptions } from './actor.ts';
import type { Answer } from './asks.ts';
import type { ActorAddress, ActorRef, ReplyOf, Request } from './ref.ts';
import type { Turns } from './turns.ts';

/** A message on its way to an actor, with where its answer goes if it was asked. */
export interface Delivery {
  readonly message: unknown;
  readonly answer: Answer | null;
  /** The receiver itself has caused it: no full mailbox refuses it. */
  readonly isOwn?: boolean;
}

/** Failures of a system so far, for metrics and tests. */
export interface SystemCounters {
  deadLetters: number;
  refusedByMailbox: number;
  invalidMessages: number;
  lateAnswers: number;
}

/** An actor as its parent sees it. */
export interface Child<M> {
  readonly ref: ActorRef<M>;
  /** Ends the actor and all below it. Never rejects; further calls wait for the same end. */
  end(reason: string): Promise<void>;
}

/** An actor as its children see it. */
export interface Parent {
  readonly ref: ActorAddress;
  childEnded(child: ActorAddress): void;
  /** A child has crashed, ended, and escalates. */
  childCrashed(error: WeightcastError): void;
}

/** What an actor needs of the system that it lives in. */
export interface Runtime {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly turns: Turns;

  /** Starts an actor. Throws `UsageError` when the name is taken, `ActorStoppedError` when the system has stopped. */
  make<M>(parent: Parent | null, name: string, create: () => Actor<M>, options: SpawnOptions<M>): Child<M>;
  /** The actor has ended: its name is free. */
  forget(ref: ActorAddress): void;
  topLevelCrashed(ref: ActorRef<never>, error: WeightcastError): void;

  tell<T>(ref: ActorRef<T>, message: T, from: ActorAddress | null): void;
  /** `lifetime` cancels the question as `options.signal` does. */
  ask<T, Q extends T & Request<unknown>>(
    ref: ActorRef<T>,
    message: Q,
    options: AskOptions,
    lifetime?: AbortSignal,
  ): Promise<ReplyOf<Q>>;
  /** Calls `notify` once when the actor ends, at once if it has. The returned function ends the watch. */
  watch(ref: ActorRef<never>, notify: (down: Down) => void): () => void;
  /** False for an actor of this node that has ended: a watch on it has fired already. */
  isWatchable(ref: ActorAddress): boolean;

  /** The message could not be delivered. */
  deadLetter(to: ActorAddress, delivery: Delivery): void;
  /** The receiver's mailbox was full. */
  refused(to: ActorAddress, delivery: Delivery, error: WeightcastError): void;
}

/** The `type` of a message, for logs and errors. */
export function typeOf(message: unknown): string {
  const type = (message as { type?: unknown } | null)?.type;
  return typeof type === 'string' ? type : 'a message';
}
