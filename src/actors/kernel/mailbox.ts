import type { MailboxPolicy } from './actor.ts';

/** Signals are rare; a sender of thousands has a fault. */
const signalLimit = 1_024;

/** What became of a pushed item: `dropped` is an older item that made room. */
export type Push<T> = { readonly accepted: false } | { readonly accepted: true; readonly dropped: T | null };

interface Entry<T> {
  readonly item: T;
  readonly isOwn: boolean;
}

/**
 * A bounded queue with a second lane for signals, which overtake messages and enter a full mailbox. Either lane always takes
 * what is the receiver's own: as much as it has caused itself, and no more.
 */
export class Mailbox<T> {
  readonly #policy: MailboxPolicy;
  readonly #signals: Entry<T>[] = [];
  /** Null where a message was taken out: the queue must not keep alive what its receiver has handled. */
  #messages: (Entry<T> | null)[] = [];
  /** Index of the oldest message: shifting an array would move all others. */
  #head = 0;

  constructor(policy: MailboxPolicy) {
    this.#policy = policy;
  }

  get size(): number {
    return this.#signals.length + this.#messages.length - this.#head;
  }

  push(item: T, isOwn = false): Push<T> {
    const isFull = !isOwn && this.#messages.length - this.#head >= this.#policy.limit;
    if (!isFull) {
      this.#messages.push({ item, isOwn });
      return { accepted: true, dropped: null };
    }
    const oldest = this.#policy.whenFull === 'drop-oldest' ? this.#oldestOfOthers() : -1;
    if (oldest < 0) return { accepted: false };
    const [dropped] = this.#messages.splice(oldest, 1);
    this.#messages.push({ item, isOwn });
    return { accepted: true, dropped: dropped!.item };
  }

  pushSignal(item: T, isOwn = false): Push<T> {
    if (!isOwn && this.#signals.length >= signalLimit) return { accepted: false };
    this.#signals.push({ item, isOwn });
    return { accepted: true, dropped: null };
  }

  shift(): T | undefined {
    return (this.#signals.shift() ?? this.#shiftMessage())?.item;
  }

  /** Takes everything out. */
  drain(): T[] {
    const waiting = this.#messages.slice(this.#head).map((entry) => entry!);
    const items = [...this.#signals, ...waiting].map(({ item }) => item);
    this.#signals.length = 0;
    this.#messages = [];
    this.#head = 0;
    return items;
  }

  #oldestOfOthers(): number {
    return this.#messages.findIndex((entry, index) => index >= this.#head && !entry!.isOwn);
  }

  #shiftMessage(): Entry<T> | undefined {
    if (this.#head === this.#messages.length) return undefined;
    const entry = this.#messages[this.#head]!;
    this.#messages[this.#head] = null;
    this.#head += 1;
    if (this.#head >= 1_024 && this.#head * 2 >= this.#messages.length) {
      this.#messages = this.#messages.slice(this.#head);
      this.#head = 0;
    }
    return entry;
  }
}
