import { fromWire, PeerLostError, ProtocolError, toWire } from '../../errors.ts';
import type { Logger } from '../../ports.ts';
import type { Down, MessageSchema } from './actor.ts';
import type { Answer, Asks } from './asks.ts';
import { DeathWatch } from './death-watch.ts';
import { type ActorAddress, type ActorRef, formatRef } from './ref.ts';
import { type Delivery, type Runtime, type SystemCounters, typeOf } from './runtime.ts';
import type { Envelope, PeerEvent, Transport } from './transport.ts';

/** An actor of this process as other processes see it. */
export interface Recipient {
  readonly accepts: MessageSchema<never> | undefined;
  deliver(delivery: Delivery): void;
}

/** What other processes may do to the actors of this one. */
export interface LocalActors extends Pick<Runtime, 'deadLetter' | 'watch' | 'isWatchable'> {
  readonly node: string;
  readonly log: Logger;
  readonly counters: SystemCounters;
  /** The live actor with that address. */
  find(ref: ActorAddress): Recipient | undefined;
}

/** The way to the actors of other processes, and theirs to the actors of this one. */
export class Peers {
  readonly #local: LocalActors;
  readonly #transport: Transport | null;
  readonly #asks: Asks;
  readonly #deathWatch = new DeathWatch();
  readonly #onPeer: (event: PeerEvent) => void;

  constructor(
    local: LocalActors,
    transport: Transport | null,
    asks: Asks,
    onPeer: (event: PeerEvent) => void = () => {},
  ) {
    this.#local = local;
    this.#onPeer = onPeer;
    this.#transport = transport;
    this.#asks = asks;
    transport?.listen(
      (from, envelope) => this.#receive(from, envelope),
      (event) => this.#peerChanged(event),
    );
  }

  /** Watches across processes, in either direction. */
  get watches(): number {
    return this.#deathWatch.size;
  }

  /** Throws `PeerLostError` when the node is out of reach, and what `Transport.send` throws. */
  send(node: string, envelope: Envelope): void {
    if (this.#transport === null)
      throw new PeerLostError(`${node} is out of reach: this process has no transport`);
    this.#transport.send(node, envelope);
  }

  watch(ref: ActorRef<never>, notify: (down: Down) => void): () => void {
    const watcher = { node: this.#local.node, name: 'kernel', generation: 0 };
    const target = toAddress(ref);
    if (this.#deathWatch.add(ref, notify)) {
      try {
        this.send(ref.node, { kind: 'watch', target, watcher });
      } catch (error) {
        this.#deathWatch.fire(ref, `${ref.node} is out of reach: ${(error as Error).message}`);
      }
    }
    return () => {
      if (!this.#deathWatch.remove(ref, notify)) return;
      this.#sendIfReachable(ref.node, { kind: 'unwatch', target, watcher });
    };
  }

  /** For envelopes that are useless when the other node is gone. */
  #sendIfReachable(node: string, envelope: Envelope): void {
    try {
      this.send(node, envelope);
    } catch (error) {
      this.#local.log.debug({ node, kind: envelope.kind, error }, 'an answer could not be sent');
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
        if (answer === undefined) this.#local.counters.lateAnswers += 1;
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
          this.send(node, { kind: 'reply', id, body });
        } catch (error) {
          // An answer that is too large or cannot be encoded: the asker gets the error instead.
          fail(error);
        }
      },
      fail,
    };
  }

  /** Delivers a message from another process if it has the form that its receiver declares. */
  #accept(to: ActorAddress, body: unknown, answer: Answer | null): void {
    const recipient = this.#local.find(to);
    if (recipient === undefined) return this.#local.deadLetter(to, { message: body, answer });
    const parsed = recipient.accepts?.safeParse(body);
    if (parsed?.success) return recipient.deliver({ message: parsed.data, answer });
    const issue = parsed?.error.issues[0];
    const why =
      issue === undefined
        ? 'it takes no messages from other processes'
        : `${issue.path.join('.')}: ${issue.message}`;
    const error = new ProtocolError(`${to.name} refuses ${typeOf(body)}: ${why}`);
    this.#local.counters.invalidMessages += 1;
    this.#local.log.warn({ to: formatRef(to) }, error.message);
    answer?.fail(error);
  }

  #watchedFrom(node: string, watcher: ActorAddress, target: ActorAddress): void {
    const ref = { ...target, node: this.#local.node };
    const end = this.#local.watch(ref, ({ reason }) => {
      this.#sendIfReachable(node, { kind: 'down', target, watcher, reason });
    });
    if (this.#local.isWatchable(ref)) this.#deathWatch.addIncoming(node, watcher, target, end);
  }

  #peerChanged(event: PeerEvent): void {
    const { node, state, reason } = event;
    if (state === 'down') {
      this.#asks.nodeLost(node, reason);
      this.#deathWatch.nodeLost(node, reason);
    }
    this.#onPeer(event);
  }
}

/** An address without what else a ref may carry. */
export function toAddress({ node, name, generation }: ActorAddress): ActorAddress {
  return { node, name, generation };
}
