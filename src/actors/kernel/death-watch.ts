import { OverloadedError } from '../../errors.ts';
import type { Down } from './actor.ts';
import { type ActorAddress, type ActorRef, formatRef } from './ref.ts';

type Notify = (down: Down) => void;

interface RemoteWatch {
  readonly ref: ActorRef<never>;
  readonly notify: Set<Notify>;
}

/** Far more than a supervisor of 4,096 ranks needs. */
const remoteWatchLimit = 65_536;

/** Watches of this process on actors of others, and of others on actors of this process. */
export class DeathWatch {
  readonly #outgoing = new Map<string, RemoteWatch>();
  /** By node, then by watcher and target: what ends the watch. */
  readonly #incoming = new Map<string, Map<string, () => void>>();

  /** Watches of either kind. */
  get size(): number {
    let size = this.#outgoing.size;
    for (const watches of this.#incoming.values()) size += watches.size;
    return size;
  }

  /** True when this is the first watch on that actor: its node must be notified. */
  add(ref: ActorRef<never>, notify: Notify): boolean {
    const key = formatRef(ref);
    const existing = this.#outgoing.get(key);
    if (existing !== undefined) {
      existing.notify.add(notify);
      return false;
    }
    if (this.#outgoing.size >= remoteWatchLimit) {
      throw new OverloadedError(
        `${remoteWatchLimit} actors of other processes are watched, the maximum; ${key} is not`,
      );
    }
    this.#outgoing.set(key, { ref, notify: new Set([notify]) });
    return true;
  }

  /** True when it was the last watch on that actor. */
  remove(ref: ActorRef<never>, notify: Notify): boolean {
    const key = formatRef(ref);
    const watch = this.#outgoing.get(key);
    if (watch === undefined || !watch.notify.delete(notify) || watch.notify.size > 0) return false;
    this.#outgoing.delete(key);
    return true;
  }

  /** A watched actor has ended. Each watch fires once: later notifications find none. */
  fire(target: ActorAddress, reason: string): void {
    const key = formatRef(target);
    const watch = this.#outgoing.get(key);
    if (watch === undefined) return;
    this.#outgoing.delete(key);
    for (const notify of watch.notify) notify({ ref: watch.ref, reason });
  }

  /** A node is lost: all actors on it are down, and its own watches end. */
  nodeLost(node: string, reason: string): void {
    for (const { ref } of [...this.#outgoing.values()]) if (ref.node === node) this.fire(ref, reason);
    for (const end of this.#incoming.get(node)?.values() ?? []) end();
    this.#incoming.delete(node);
  }

  addIncoming(node: string, watcher: ActorAddress, target: ActorAddress, end: () => void): void {
    let watches = this.#incoming.get(node);
    if (watches === undefined) {
      watches = new Map();
      this.#incoming.set(node, watches);
    }
    watches.set(incomingKey(watcher, target), end);
  }

  removeIncoming(node: string, watcher: ActorAddress, target: ActorAddress): void {
    const watches = this.#incoming.get(node);
    const key = incomingKey(watcher, target);
    watches?.get(key)?.();
    watches?.delete(key);
  }
}

function incomingKey(watcher: ActorAddress, target: ActorAddress): string {
  return `${formatRef(watcher)} ${formatRef(target)}`;
}
