import { PeerLostError } from '../../errors.ts';
import type { Actor, Context, Reply, SpawnOptions } from '../kernel/index.ts';
import type { NextReads } from '../protocol/join-values.ts';
import { type SwarmMessage, toSwarm } from '../protocol/swarm.ts';
import { anyOf } from '../protocol/table.ts';
import { JoinedCheckpoint } from './joined-checkpoint.ts';

type SwarmInbox =
  | SwarmMessage
  /** A receiver without anything to read has waited long enough for an answer. */
  | { readonly type: 'park-timeout'; readonly swarm: string; readonly rank: number }
  /** A receiver has left a source alone for long enough. */
  | {
      readonly type: 'backoff-elapsed';
      readonly swarm: string;
      readonly rank: number;
      readonly source: number;
    };

export const swarmSpawnOptions: SpawnOptions<SwarmInbox> = { accepts: anyOf(toSwarm) };

type MessageOf<T extends SwarmInbox['type']> = Extract<SwarmInbox, { type: T }>;

/** How long a receiver without anything to read is kept waiting for an answer. */
const parkMilliseconds = 1_000;

interface Waiting {
  readonly reply: Reply<NextReads>;
  readonly cancel: () => void;
}

/** A checkpoint that is being joined, and the receivers of it that wait for something to read. */
interface Joined {
  readonly checkpoint: JoinedCheckpoint;
  readonly waiting: Map<number, Waiting>;
}

/**
 * Tells ranks that receive a checkpoint which piece to read from whom. It knows who holds what, by the pieces that
 * receivers say have arrived.
 */
export class SwarmActor implements Actor<SwarmInbox> {
  readonly #joined = new Map<string, Joined>();

  receive(message: SwarmInbox, context: Context<SwarmInbox>): void {
    if (message.type === 'open-swarm') {
      this.#open(message);
      context.reply(message, {});
      return;
    }
    const joined = this.#joined.get(message.swarm);
    if (joined === undefined) this.#refuse(message, context);
    else this.#handle(message, joined, context);
  }

  #open({ swarm, epoch, sliceBytes }: MessageOf<'open-swarm'>): void {
    let joined = this.#joined.get(swarm);
    if (joined === undefined) {
      joined = { checkpoint: new JoinedCheckpoint(sliceBytes), waiting: new Map() };
      this.#joined.set(swarm, joined);
    }
    joined.checkpoint.epochs.add(epoch);
  }

  /** All updates that used the swarm are over. */
  #refuse(message: SwarmInbox, context: Context<SwarmInbox>): void {
    if (message.type === 'add-source') context.reply(message, {});
    if (message.type === 'join-swarm' || message.type === 'next-reads') {
      context.fail(new PeerLostError(`the update that rank ${message.rank} was to receive for is over`));
    }
  }

  #handle(
    message: Exclude<SwarmInbox, MessageOf<'open-swarm'>>,
    joined: Joined,
    context: Context<SwarmInbox>,
  ): void {
    const { checkpoint } = joined;
    switch (message.type) {
      case 'close-swarm':
        return this.#close(message, joined);
      case 'add-source':
        checkpoint.addSource(message.source, message.isComplete);
        context.reply(message, {});
        return this.#serve(joined);
      case 'remove-source':
        checkpoint.removeSource(message.rank, message.reason, message.returns);
        this.#serve(joined);
        return this.#failStarving(joined, joined.waiting.keys(), context);
      case 'reduce-source':
        checkpoint.reduceSource(message.rank, message.slices);
        this.#serve(joined);
        return this.#failStarving(joined, joined.waiting.keys(), context);
      case 'join-swarm':
        return this.#join(message, joined, context);
      case 'next-reads':
        return this.#nextReads(message, joined, context);
      case 'leave-swarm':
        this.#leave(message.rank, joined);
        return this.#serve(joined);
      case 'park-timeout':
        this.#failStarving(joined, [message.rank], context);
        this.#take(message.rank, joined)?.succeed({ reads: [], sources: [], isDone: false });
        return;
      case 'backoff-elapsed':
        checkpoint.forgive(message.rank, message.source);
        return this.#serve(joined);
    }
  }

  #close({ swarm, epoch }: MessageOf<'close-swarm'>, { checkpoint, waiting }: Joined): void {
    checkpoint.epochs.delete(epoch);
    if (checkpoint.epochs.size > 0) return;
    for (const { reply, cancel } of waiting.values()) {
      cancel();
      reply.fail(new PeerLostError('the update is over'));
    }
    this.#joined.delete(swarm);
  }

  #join(message: MessageOf<'join-swarm'>, joined: Joined, context: Context<SwarmInbox>): void {
    const { rank, pieces } = message;
    if (!joined.checkpoint.isSource(rank)) return this.#refuse(message, context);
    this.#leave(rank, joined);
    joined.checkpoint.addReceiver(rank, pieces);
    context.reply(message, {});
  }

  #leave(rank: number, joined: Joined): void {
    this.#take(rank, joined)?.fail(new PeerLostError(`rank ${rank} has left`));
    joined.checkpoint.removeReceiver(rank);
  }

  #nextReads(message: MessageOf<'next-reads'>, joined: Joined, context: Context<SwarmInbox>): void {
    const { swarm, rank, arrived, failed } = message;
    const { checkpoint, waiting } = joined;
    if (!checkpoint.isReceiver(rank)) return this.#refuse(message, context);
    for (const piece of arrived) checkpoint.arrived(rank, piece);
    for (const read of failed) {
      const delay = checkpoint.failed(rank, read);
      if (delay !== null)
        context.schedule(delay, { type: 'backoff-elapsed', swarm, rank, source: read.source });
    }
    this.#take(rank, joined)?.fail(new PeerLostError('asked again'));
    const reply = context.deferReply(message);
    const cancel = context.schedule(parkMilliseconds, { type: 'park-timeout', swarm, rank });
    waiting.set(rank, { reply, cancel });
    this.#serve(joined);
    this.#failStarving(joined, [rank], context);
  }

  /** Whoever waits gets what there is to read by now; who has reads under way, or all of them behind it, does not wait. */
  #serve(joined: Joined): void {
    for (const rank of joined.waiting.keys()) {
      const next = joined.checkpoint.next(rank);
      if (next !== null) this.#take(rank, joined)?.succeed(next);
    }
  }

  #failStarving(joined: Joined, ranks: Iterable<number>, { clock }: Context<SwarmInbox>): void {
    for (const rank of ranks) {
      const failure = joined.waiting.has(rank) ? joined.checkpoint.starves(rank, clock.now()) : null;
      if (failure !== null) this.#take(rank, joined)?.fail(failure);
    }
  }

  /** Whoever is answered waits no more. */
  #take(rank: number, { waiting }: Joined): Reply<NextReads> | null {
    const { reply, cancel } = waiting.get(rank) ?? { reply: null, cancel: () => {} };
    waiting.delete(rank);
    cancel();
    return reply;
  }
}
