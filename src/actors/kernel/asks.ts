import {
  AbortedError,
  asFailure,
  DeadlineError,
  OverloadedError,
  PeerLostError,
  type WeightcastError,
} from '../../errors.ts';
import type { Clock } from '../../ports.ts';
import { AbortListeners } from './abort-listeners.ts';
import { type ActorAddress, formatRef } from './ref.ts';

/** Where an answer goes: to a promise of this process or, over the transport, to one elsewhere. */
export interface Answer {
  succeed(value: unknown): void;
  fail(error: WeightcastError): void;
}

/** When an ask ends without an answer. */
export interface AskLimits {
  readonly deadlineMilliseconds: number;
  /** Each of them cancels the ask. */
  readonly signals: readonly AbortSignal[];
}

interface PendingAsk extends Answer {
  readonly node: string;
}

/** Each open ask holds a timer; a process that has this many asks faster than it gets answers. */
const pendingLimit = 65_536;

/** Asks of this process that wait for an answer. Every one ends: answered, late, cancelled or its node lost. */
export class Asks {
  readonly #clock: Clock;
  readonly #pending = new Map<number, PendingAsk>();
  readonly #aborts = new AbortListeners();
  #lastId = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Open asks. */
  get size(): number {
    return this.#pending.size;
  }

  /** `send` delivers the question, with the id or the answer that settles it. */
  open(
    to: ActorAddress,
    what: string,
    { deadlineMilliseconds, signals }: AskLimits,
    send: (id: number, answer: Answer) => void,
  ): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#pending.size >= pendingLimit) {
        reject(
          new OverloadedError(`${pendingLimit} asks are open already; ${what} to ${to.name} was not sent`),
        );
        return;
      }
      const aborted = signals.find((signal) => signal.aborted);
      if (aborted !== undefined) {
        reject(cancelled(aborted, what, to));
        return;
      }
      this.#lastId += 1;
      const id = this.#lastId;
      const close = () => {
        this.#pending.delete(id);
        cancelDeadline();
        for (const signal of signals) this.#aborts.remove(signal, onAbort);
      };
      const answer: PendingAsk = {
        node: to.node,
        succeed: (value) => {
          close();
          resolve(value);
        },
        fail: (error) => {
          close();
          reject(error);
        },
      };
      const onAbort = (signal: AbortSignal) => answer.fail(cancelled(signal, what, to));
      const cancelDeadline = this.#clock.after(deadlineMilliseconds, () =>
        answer.fail(
          new DeadlineError(`${formatRef(to)} did not answer ${what} within ${deadlineMilliseconds} ms`),
        ),
      );
      for (const signal of signals) this.#aborts.add(signal, onAbort);
      this.#pending.set(id, answer);
      try {
        send(id, answer);
      } catch (error) {
        answer.fail(asFailure(error));
      }
    });
  }

  /** The open ask with that id, if it went to that node; otherwise the answer came too late. */
  take(id: number, node: string): Answer | undefined {
    const pending = this.#pending.get(id);
    return pending?.node === node ? pending : undefined;
  }

  nodeLost(node: string, reason: string): void {
    for (const ask of this.#pending.values()) {
      if (ask.node === node) ask.fail(new PeerLostError(`${node} is gone: ${reason}`));
    }
  }

  closeAll(): void {
    for (const ask of this.#pending.values()) ask.fail(new AbortedError('the actor system has stopped'));
  }
}

function cancelled(signal: AbortSignal, what: string, to: ActorAddress): WeightcastError {
  return new AbortedError(`${what} to ${to.name} was cancelled: ${asFailure(signal.reason).message}`);
}
