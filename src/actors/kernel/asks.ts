import {
  AbortedError,
  asFailure,
  DeadlineError,
  OverloadedError,
  PeerLostError,
  type WeightcastError,
} from '../../errors.ts';
import type { Clock } from '../../ports.ts';
import type { AskOptions } from './actor.ts';
import { type ActorAddress, formatRef } from './ref.ts';

/** Where an answer goes: to a promise of this process or, over the transport, to one elsewhere. */
export interface Answer {
  succeed(value: unknown): void;
  fail(error: WeightcastError): void;
}

interface PendingAsk extends Answer {
  readonly node: string;
}

/** Each open ask holds a timer; a process that has this many is asking faster than anyone answers. */
const pendingLimit = 65_536;

/** Questions of this process that wait for an answer. Every one ends: answered, late, cancelled or its node lost. */
export class Asks {
  readonly #clock: Clock;
  readonly #pending = new Map<number, PendingAsk>();
  #lastId = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Questions that are open. */
  get size(): number {
    return this.#pending.size;
  }

  /** `send` passes the question on, with the id or the answer to settle it by. */
  open(
    to: ActorAddress,
    what: string,
    options: AskOptions,
    send: (id: number, answer: Answer) => void,
  ): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const { deadlineMilliseconds, signal } = options;
      if (this.#pending.size >= pendingLimit) {
        reject(
          new OverloadedError(`${pendingLimit} questions are open; ${what} to ${to.name} was not asked`),
        );
        return;
      }
      if (signal?.aborted) {
        reject(cancelled(signal, what, to));
        return;
      }
      this.#lastId += 1;
      const id = this.#lastId;
      const close = () => {
        this.#pending.delete(id);
        cancelDeadline();
        signal?.removeEventListener('abort', onAbort);
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
      const onAbort = () => answer.fail(cancelled(signal!, what, to));
      const cancelDeadline = this.#clock.after(deadlineMilliseconds, () =>
        answer.fail(
          new DeadlineError(`${formatRef(to)} did not answer ${what} within ${deadlineMilliseconds} ms`),
        ),
      );
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#pending.set(id, answer);
      try {
        send(id, answer);
      } catch (error) {
        answer.fail(asFailure(error));
      }
    });
  }

  /** The open question with that id, if it was put to that node; anything else is an answer that came too late. */
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
