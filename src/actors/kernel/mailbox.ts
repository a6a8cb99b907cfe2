import type { MailboxPolicy } from './actor.ts';

/** Signals are rare; a sender of thousands has a fault. */
const signalLimit = 1_024;

/** What became of a pushed item: `dropped` is an older item that made room. */
export type Push<T> = { readonly accepted: false } | { readonly accepted: true; readonly dropped: T | null };

/** A bounded queue with a second lane for signals, which overtake messages and enter a full mailbox. */
export class Mailbox<T> {
  readonly #policy: MailboxPolicy;
  readonly #signals: T[] = [];
  #messages: T[] = [];
  /** Index of the oldest message: shifting an array would move all others. */
  #head = 0;

  constructor(policy: MailboxPolicy) {
    this.#policy = policy;
  }

  get size(): number {
    return this.#signals.length + this.#messages.length - this.#head;
  }

  push(item: T): Push<T> {
    if (this.#messages.length - this.#head < this.#policy.limit) {
      this.#messages.push(item);
      return { accepted: true, dropped: null };
    }
    if (this.#policy.whenFull === 'reject') return { accepted: false };
    const dropped = this.#shiftMessage()!;
    this.#messages.push(item);
    return { accepted: true, dropped };
  }

  pushSignal(item: T): Push<T> {
    if (this.#signals.length >= signalLimit) return { accepted: false };
    this.#signals.push(item);
    return { accepted: true, dropped: null };
  }

  shift(): T | undefined {
    return this.#signals.shift() ?? this.#shiftMessage();
  }

  /** Takes everything out. */
  drain(): T[] {
    const items = [...this.#signals, ...this.#messages.slice(this.#head)];
    this.#signals.length = 0;
    this.#messages = [];
    this.#head = 0;
    return items;
  }

  #shiftMessage(): T | undefined {
    if (this.#head === this.#messages.length) return undefined;
    const item = this.#messages[this.#head]!;
    this.#head += 1;
    if (this.#head >= 1_024 && this.#head * 2 >= this.#messages.length) {
      this.#messages = this.#messages.slice(this.#head);
      this.#head = 0;
    }
    return item;
  }
}
