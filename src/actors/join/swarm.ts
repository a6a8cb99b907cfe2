import { PeerLostError } from '../../errors.ts';
import { type Actor, type Context, type Reply, restartForEver, type SpawnOptions } from '../kernel/index.ts';
import type { NextReads } from '../protocol/join-values.ts';
import { type SwarmMessage, toSwarm } from '../protocol/swarm.ts';
import { anyOf } from '../protocol/table.ts';
import { JoinedCheckpoint } from './joined-checkpoint.ts';

type SwarmInbox =
  | SwarmMessage
  /** A receiver with nothing to read is answered now, with nothing. */
  | { readonly type: 'park-timeout'; readonly swarm: string; readonly rank: number }
  /** A receiver may read from a source again. */
  | {
      readonly type: 'backoff-elapsed';
      readonly swarm: string;
      readonly rank: number;
      readonly source: number;
    };

/** A crash ends the joins that are under way; those after it find a new swarm. */
export const swarmSpawnOptions: SpawnOptions<SwarmInbox> = {
  accepts: anyOf(toSwarm),
  supervision: restartForEver,
};

type MessageOf<T extends SwarmInbox['type']> = Extract<SwarmInbox, { type: T }>;

/** How long a receiver with nothing more to read waits for an answer. */
const parkMilliseconds = 1_000;

interface Waiting {
  readonly reply: Reply<NextReads>;
  readonly cancel: () => void;
}

/** A checkpoint, and its receivers whose question is parked until there is something to read. */
interface Joined {
  readonly checkpoint: JoinedCheckpoint;
  readonly waiting: Map<number, Waiting>;
}

/**
 * Assigns reads to the ranks that receive a checkpoint: which piece from which source. Receivers report the pieces that
 * have arrived, and become sources of them.
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

  /** All updates that used the swarm have ended, or this actor was restarted meanwhile. */
  #refuse(message: SwarmInbox, context: Context<SwarmInbox>): void {
    if (message.type === 'add-source') context.reply(message, {});
    if (message.type === 'join-swarm' || message.type === 'next-reads') {
      context.fail(
        new PeerLostError(`the update that rank ${message.rank} receives for has ended, or lost its swarm`),
      );
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
        checkpoint.removeSource(message.rank, message.reason, message.isExpectedBack);
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
        checkpoint.retrySource(message.rank, message.source);
        return this.#serve(joined);
    }
  }

  #close({ swarm, epoch }: MessageOf<'close-swarm'>, { checkpoint, waiting }: Joined): void {
    checkpoint.epochs.delete(epoch);
    if (checkpoint.epochs.size > 0) return;
    for (const { reply, cancel } of waiting.values()) {
      cancel();
      reply.fail(new PeerLostError('the update has ended'));
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
    this.#take(rank, joined)?.fail(new PeerLostError(`rank ${rank} asked again before it was answered`));
    const reply = context.deferReply(message);
    const cancel = context.schedule(parkMilliseconds, { type: 'park-timeout', swarm, rank });
    waiting.set(rank, { reply, cancel });
    this.#serve(joined);
    this.#failStarving(joined, [rank], context);
  }

  /** Answers parked receivers that can read something more now, or are done. */
  #serve(joined: Joined): void {
    for (const rank of joined.waiting.keys()) {
      const next = joined.checkpoint.next(rank);
      if (next !== null) this.#take(rank, joined)?.succeed(next);
    }
  }

  #failStarving(joined: Joined, ranks: Iterable<number>, { clock }: Context<SwarmInbox>): void {
    for (const rank of ranks) {
      const failure = joined.waiting.has(rank) ? joined.checkpoint.starvationError(rank, clock.now()) : null;
      if (failure !== null) this.#take(rank, joined)?.fail(failure);
    }
  }

  /** Removes a parked receiver, whose question the caller answers. */
  #take(rank: number, { waiting }: Joined): Reply<NextReads> | null {
    const { reply, cancel } = waiting.get(rank) ?? { reply: null, cancel: () => {} };
    waiting.delete(rank);
    cancel();
    return reply;
  }
}
