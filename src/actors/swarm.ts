import { PeerLostError } from '../errors.ts';
import { Pieces } from '../plan/pieces.ts';
import { Swarm } from '../plan/swarm.ts';
import type { Actor, Context, Reply } from './kernel/index.ts';
import type { FabricSource, NextReads, SwarmMessage } from './messages.ts';

type MessageOf<T extends SwarmMessage['type']> = Extract<SwarmMessage, { type: T }>;

/** How long a receiver without anything to read is kept waiting for an answer. */
const parkMilliseconds = 1_000;
/** How long a piece may be with nobody, before whoever lacks it fails: a source that died is started anew meanwhile. */
const starvationMilliseconds = 8_000;

interface Receiver {
  /** Sources whose descriptions it has been sent. */
  readonly known: Set<number>;
  waiting: Reply<NextReads> | null;
  cancelWait: () => void;
  starvingSince: number | null;
}

/** One checkpoint that is being joined. */
interface Joined {
  readonly plan: Swarm;
  readonly pieces: Pieces;
  readonly sources: Map<number, FabricSource>;
  readonly receivers: Map<number, Receiver>;
  /** Updates that use it; without any it goes. */
  readonly epochs: Set<number>;
  /** Of the source that went last, for whoever lacks what it held. */
  lastLoss: string;
}

/**
 * Tells ranks that receive a checkpoint which piece to read from whom. It knows who holds what, by the pieces that
 * receivers say have arrived; plan/swarm.ts chooses.
 */
export class SwarmActor implements Actor<SwarmMessage> {
  readonly #joined = new Map<string, Joined>();

  receive(message: SwarmMessage, context: Context<SwarmMessage>): void {
    switch (message.type) {
      case 'open-swarm':
        this.#open(message);
        return context.reply(message, {});
      case 'close-swarm':
        return this.#close(message);
      case 'add-source':
        this.#addSource(message);
        return context.reply(message, {});
      case 'remove-source':
        return this.#removeSource(message.swarm, message.rank, message.reason);
      case 'join-swarm':
        return this.#join(message, context);
      case 'next-reads':
        return this.#nextReads(message, context);
      case 'leave-swarm':
        return this.#leave(message);
      case 'waited-enough':
        return this.#answer(message.swarm, message.rank, context);
    }
  }

  #open({ swarm, epoch, sliceBytes }: MessageOf<'open-swarm'>): void {
    let joined = this.#joined.get(swarm);
    if (joined === undefined) {
      const pieces = new Pieces([...sliceBytes]);
      joined = {
        plan: new Swarm(pieces.count),
        pieces,
        sources: new Map(),
        receivers: new Map(),
        epochs: new Set(),
        lastLoss: 'nobody ever held it',
      };
      this.#joined.set(swarm, joined);
    }
    joined.epochs.add(epoch);
  }

  #close({ swarm, epoch }: MessageOf<'close-swarm'>): void {
    const joined = this.#joined.get(swarm);
    if (joined === undefined) return;
    joined.epochs.delete(epoch);
    if (joined.epochs.size > 0) return;
    for (const receiver of joined.receivers.values()) {
      this.#take(receiver)?.fail(new PeerLostError('the update is over'));
    }
    this.#joined.delete(swarm);
  }

  #addSource({ swarm, source, isComplete }: MessageOf<'add-source'>): void {
    const joined = this.#joined.get(swarm);
    if (joined === undefined) return;
    const pieces = isComplete ? piecesOf(source, joined.pieces) : [];
    const known = joined.sources.get(source.rank);
    if (known !== undefined && Buffer.compare(known.address, source.address) === 0) {
      // Another update knows it too; it may hold more by now.
      const more = source.slices.filter(({ slice }) => !known.slices.some((held) => held.slice === slice));
      joined.sources.set(source.rank, { ...known, slices: [...known.slices, ...more] });
      joined.plan.extendSource(source.rank, pieces);
      if (more.length > 0)
        for (const receiver of joined.receivers.values()) receiver.known.delete(source.rank);
    } else {
      // A new life of a rank whose death was not noticed.
      if (known !== undefined) this.#removeSource(swarm, source.rank, 'it was started anew');
      joined.sources.set(source.rank, source);
      joined.plan.addSource(source.rank, pieces);
    }
    this.#serveWaiting(joined);
  }

  #removeSource(swarm: string, rank: number, reason: string): void {
    const joined = this.#joined.get(swarm);
    if (joined === undefined || !joined.sources.delete(rank)) return;
    joined.lastLoss = `rank ${rank}: ${reason}`;
    for (const { known } of joined.receivers.values()) known.delete(rank);
    joined.plan.removeSource(rank);
    this.#serveWaiting(joined);
  }

  #join(message: MessageOf<'join-swarm'>, context: Context<SwarmMessage>): void {
    const { swarm, rank, pieces } = message;
    const joined = this.#joined.get(swarm);
    if (joined === undefined || !joined.sources.has(rank)) {
      context.fail(new PeerLostError(`the update that rank ${rank} was to receive for is over`));
      return;
    }
    this.#leave({ swarm, rank });
    joined.plan.addReceiver(rank, [...pieces]);
    const receiver = { known: new Set<number>(), waiting: null, cancelWait: () => {}, starvingSince: null };
    joined.receivers.set(rank, receiver);
    context.reply(message, {});
  }

  #leave({ swarm, rank }: { readonly swarm: string; readonly rank: number }): void {
    const joined = this.#joined.get(swarm);
    const receiver = joined?.receivers.get(rank);
    if (joined === undefined || receiver === undefined) return;
    this.#take(receiver)?.fail(new PeerLostError(`rank ${rank} has left`));
    joined.receivers.delete(rank);
    joined.plan.removeReceiver(rank);
    this.#serveWaiting(joined);
  }

  #nextReads(message: MessageOf<'next-reads'>, context: Context<SwarmMessage>): void {
    const { swarm, rank, arrived, failed } = message;
    const joined = this.#joined.get(swarm);
    const receiver = joined?.receivers.get(rank);
    if (joined === undefined || receiver === undefined) {
      context.fail(new PeerLostError(`rank ${rank} receives nothing any more`));
      return;
    }
    for (const piece of arrived) joined.plan.arrived(rank, piece);
    for (const { piece, source, reason } of failed) {
      joined.plan.failed(rank, piece);
      this.#removeSource(swarm, source, reason);
    }
    this.#take(receiver)?.fail(new PeerLostError('asked again'));
    receiver.waiting = context.deferReply(message);
    receiver.cancelWait = context.schedule(parkMilliseconds, { type: 'waited-enough', swarm, rank });
    this.#serveWaiting(joined);
    this.#failStarving(joined, receiver, rank, context);
  }

  /** Whoever waits gets what there is to read by now; who has reads under way, or all of them behind it, does not wait. */
  #serveWaiting(joined: Joined): void {
    for (const [rank, receiver] of joined.receivers) {
      if (receiver.waiting === null) continue;
      const reads = joined.plan.next(rank);
      const isDone = joined.plan.isDone(rank);
      if (reads.length === 0 && !isDone && !joined.plan.isReading(rank)) continue;
      receiver.starvingSince = null;
      this.#take(receiver)?.succeed({ reads, sources: news(joined, receiver, reads), isDone });
    }
  }

  #answer(swarm: string, rank: number, context: Context<SwarmMessage>): void {
    const joined = this.#joined.get(swarm);
    const receiver = joined?.receivers.get(rank);
    if (joined === undefined || receiver === undefined) return;
    this.#failStarving(joined, receiver, rank, context);
    this.#take(receiver)?.succeed({ reads: [], sources: [], isDone: false });
  }

  #failStarving(joined: Joined, receiver: Receiver, rank: number, { clock }: Context<SwarmMessage>): void {
    if (receiver.waiting === null || joined.plan.unobtainable(rank) === null) return;
    receiver.starvingSince ??= clock.now();
    if (clock.now() - receiver.starvingSince < starvationMilliseconds) return;
    const { segment: slice } = joined.pieces.at(joined.plan.unobtainable(rank)!);
    const message = `nobody is left who holds slice ${slice} of the checkpoint; ${joined.lastLoss}`;
    this.#take(receiver)?.fail(new PeerLostError(message));
  }

  #take(receiver: Receiver): Reply<NextReads> | null {
    const { waiting } = receiver;
    receiver.waiting = null;
    receiver.cancelWait();
    return waiting;
  }
}

function piecesOf({ slices }: FabricSource, pieces: Pieces): number[] {
  return slices.flatMap(({ slice }) => {
    const { first, end } = pieces.ofSegment(slice);
    return Array.from({ length: end - first }, (_, index) => first + index);
  });
}

/** Descriptions of the sources that the receiver has not been told of. */
function news(
  joined: Joined,
  { known }: Receiver,
  reads: readonly { readonly source: number }[],
): FabricSource[] {
  const unknown = new Set(reads.map(({ source }) => source).filter((source) => !known.has(source)));
  for (const source of unknown) known.add(source);
  return [...unknown].map((source) => joined.sources.get(source)!);
}
