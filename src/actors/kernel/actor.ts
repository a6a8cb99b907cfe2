import type { WeightcastError } from '../../errors.ts';
import type { Clock, Logger, Random } from '../../ports.ts';
import type { ActorRef, ReplyOf, Request } from './ref.ts';

/**
 * The behaviour of an actor. Its methods run one at a time, never two at once; any of them may throw anything.
 * A throw from `started` or `receive` is a crash: the supervision given at spawn decides what follows.
 */
export interface Actor<M> {
  /** Runs once before the first message, also after each restart. */
  started?(context: Context<M>): void | Promise<void>;
  receive(message: M, context: Context<M>): void | Promise<void>;
  /** Runs once when the actor ends, for any reason, after its children have ended. Releases everything. */
  stopping?(context: Context<M>): void | Promise<void>;
}

/** What an actor sees of the system while it handles a message. */
export interface Context<M> {
  readonly self: ActorRef<M>;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** Aborted when this life of the actor ends; give it to work that should end with the actor. */
  readonly signal: AbortSignal;

  spawn<C>(name: string, create: () => Actor<C>, options?: SpawnOptions<C>): ActorRef<C>;
  /** Ends a child, or with no argument the actor itself; resolves when it and all below it have ended. */
  stop(child?: ActorRef<never>): Promise<void>;

  tell<T>(ref: ActorRef<T>, message: T): void;
  /**
   * Rejects with `DeadlineError`, `ActorStoppedError`, `PeerLostError`, `OverloadedError` or what the receiver failed
   * with.
   */
  ask<T, Q extends T & Request<unknown>>(
    ref: ActorRef<T>,
    message: Q,
    options: AskOptions,
  ): Promise<ReplyOf<Q>>;

  /** Answers the message being handled. Answering a `tell` does nothing. */
  reply<Q extends Request<unknown>>(request: Q, answer: ReplyOf<Q>): void;
  /** Answers the message being handled with an error. */
  fail(error: WeightcastError): void;
  /**
   * Lets the answer be given after the handler has returned, once. If this life of the actor ends before, the asker gets
   * `ActorStoppedError` with the reason.
   */
  deferReply<Q extends Request<unknown>>(request: Q): Reply<ReplyOf<Q>>;

  /** Puts `toMessage(down)` into this mailbox when `ref` ends: exactly once, also if it has ended already. */
  watch(ref: ActorRef<never>, toMessage: (down: Down) => M): void;
  unwatch(ref: ActorRef<never>): void;

  /** Sends `message` to this actor after a delay, unless cancelled or ended first. */
  schedule(milliseconds: number, message: M): () => void;
  /** Turns the end of asynchronous work into a message, so that state only changes in `receive`. */
  pipe<T>(work: Promise<T>, onSuccess: (value: T) => M, onFailure: (error: WeightcastError) => M): void;
}

export interface AskOptions {
  readonly deadlineMilliseconds: number;
  readonly signal?: AbortSignal;
}

export interface Reply<R> {
  succeed(answer: R): void;
  fail(error: WeightcastError): void;
}

/** Why a watched actor ended. */
export interface Down {
  readonly ref: ActorRef<never>;
  /** `stopped`, `crashed: …`, `never existed`, or how its process ended. */
  readonly reason: string;
}

/** What a schema of zod offers a mailbox: it parses a message from another process, or says what is wrong with it. */
export interface MessageSchema<M> {
  safeParse(body: unknown):
    | { readonly success: true; readonly data: M }
    | {
        readonly success: false;
        readonly error: {
          readonly issues: readonly { readonly path: PropertyKey[]; readonly message: string }[];
        };
      };
}

export interface SpawnOptions<M> {
  readonly mailbox?: MailboxPolicy;
  readonly supervision?: SupervisionPolicy;
  /** What a message from another process must look like. Without it the actor takes none. */
  readonly accepts?: MessageSchema<M>;
  /** Messages that enter a full mailbox and overtake others: stop orders, aborts, deaths. */
  readonly isSignal?: (message: M) => boolean;
  /**
   * How long a handler that runs, and `stopping`, may take while the actor ends; after that it ends without them.
   * Default: 5,000.
   */
  readonly endingMilliseconds?: number;
}

/**
 * `reject`: the sender of an ask gets `OverloadedError`, a tell becomes a dead letter. The limit is for what others send:
 * what the actor itself has caused always enters, its timers, watches and piped work, and what its children tell it.
 */
export interface MailboxPolicy {
  readonly limit: number;
  readonly whenFull: 'reject' | 'drop-oldest';
}

/**
 * What happens to an actor that crashed. `restart` allows `restarts` of them within `withinMilliseconds`, waiting
 * `backoffMilliseconds` doubled each time up to `maximumBackoffMilliseconds`, with jitter; one more escalates:
 * the parent crashes. `restarts` may be infinite: then it is restarted for ever, at the slow rate of the longest wait.
 */
export type SupervisionPolicy =
  | { readonly onCrash: 'stop' }
  | { readonly onCrash: 'escalate' }
  | {
      readonly onCrash: 'restart';
      readonly restarts: number;
      readonly withinMilliseconds: number;
      readonly backoffMilliseconds: number;
      readonly maximumBackoffMilliseconds: number;
    };
