import { asFailure, OutOfHostMemoryError, UsageError } from '../../errors.ts';
import type { Copy } from '../../plan/reception.ts';
import { findSet } from '../../plan/segment-sets.ts';
import { shareTensors } from '../../plan/tensor-shares.ts';
import { type ActorRef, type Context, type ReplyOf, sameActor } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import type { Registered, Segment } from '../protocol/checkpoint-values.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { PlannerMessage } from '../protocol/planner.ts';
import { toRank } from '../protocol/rank.ts';
import type { WriterMessage } from '../protocol/writer.ts';
import type { CheckpointShelf, Dropped, SegmentSet } from './checkpoint-ledger.ts';
import { exposeCheckpoint } from './export.ts';
import type { SupervisorInbox } from './inbox.ts';
import type { Members, RankMember } from './rank-registry.ts';
import { type RegistrationOrder, registerCheckpoint } from './registration.ts';
import type { ForgottenSegments } from './released-segments.ts';

type MessageOf<T extends SupervisorInbox['type']> = Extract<SupervisorInbox, { type: T }>;

/** A set that a writer fills. */
interface Reservation {
  readonly set: SegmentSet;
  readonly reservedAt: number;
  readonly writer: ActorRef<WriterMessage>;
}

/** Processes that write tensors into host memory, and keep it mapped. */
interface Writer {
  readonly ref: ActorRef<WriterMessage>;
  readonly host: string;
}

const writerLimit = 16;

/** A registration that has begun; `commit` and `rollback` are called once it has ended. */
export interface Registration {
  readonly run: Promise<Registered>;
  readonly commit: (registered: Registered) => Registered['status'];
  readonly rollback: () => void;
}

/** What is done with checkpoints, but for updates: the shelf, and telling all who have to do with it. */
export class Checkpoints {
  readonly #shelf: CheckpointShelf;
  readonly #members: Members;
  readonly #forgotten: ForgottenSegments;
  readonly #segmentName: (set: number) => string;
  readonly #reservations = new Map<number, Reservation>();
  #writers: readonly Writer[] = [];
  #planner!: ActorRef<PlannerMessage>;
  #sets = 0;
  #lastReservation = 0;

  constructor(
    shelf: CheckpointShelf,
    members: Members,
    forgotten: ForgottenSegments,
    segmentName: (set: number) => string,
  ) {
    this.#shelf = shelf;
    this.#members = members;
    this.#forgotten = forgotten;
    this.#segmentName = segmentName;
  }

  started(planner: ActorRef<PlannerMessage>): void {
    this.#planner = planner;
  }

  // ── registrations ────────────────────────────────────────────────────────────────────────────────────────────

  /** Throws `UsageError`. */
  register(
    { checkpoint, source }: MessageOf<'register'>,
    ranks: readonly RankMember[],
    context: Context<SupervisorInbox>,
    signal: AbortSignal,
  ): Registration {
    this.#shelf.checkRoom(checkpoint);
    const reserved = source.kind === 'written' ? this.#redeem(source.reservation) : null;
    const startedAt = reserved?.reservedAt ?? context.clock.now();
    let set = reserved?.set ?? null;
    const discard = () => {
      const taken = set;
      set = null;
      if (taken !== null) this.#drop(this.#shelf.discard(taken), context);
    };
    const onTaken = (taken: SegmentSet) => {
      set = taken;
    };
    const load = () => {
      const order = { checkpoint, source, ranks, startedAt, planner: this.#planner };
      return this.#load(order, context, signal, onTaken).catch((error) => {
        // At once, so that a second try has room; what was written is not written again.
        if (source.kind !== 'written') discard();
        throw error;
      });
    };
    return {
      run: this.withSpareMemory(load, context),
      commit: (registered) => {
        this.#drop(this.#shelf.register(registered, set), context);
        return registered.status;
      },
      rollback: discard,
    };
  }

  #load(
    order: Pick<RegistrationOrder, 'checkpoint' | 'source' | 'ranks' | 'startedAt' | 'planner'>,
    context: Context<SupervisorInbox>,
    signal: AbortSignal,
    onTaken: (set: SegmentSet) => void,
  ): Promise<Registered> {
    const onLoading = (segments: SegmentSet, reused: SegmentSet | null) => {
      if (reused !== null && !this.#shelf.isSpare(reused)) return false;
      const set = reused ?? segments;
      this.#shelf.take(set);
      onTaken(set);
      return true;
    };
    const memory = { segmentName: this.#newName(), spare: this.#shelf.spareSets, onLoading };
    return registerCheckpoint(context, { ...order, ...memory }, signal);
  }

  /** The segments of a checkpoint stay as they are until the returned function is called, once. */
  read(checkpoint: string, context: Context<SupervisorInbox>): () => void {
    const end = this.#shelf.read(checkpoint);
    return () => void this.#drop(end(), context);
  }

  /** What hosts that joined have received of a checkpoint goes with it. */
  addCopies(checkpoint: string, copies: readonly Copy[]): void {
    this.#shelf.addCopies(checkpoint, copies);
  }

  /**
   * How other clusters read a checkpoint, for as long as it is registered: its host memory is not used again after that.
   * Rejects with `UsageError` and `CheckpointError`.
   */
  async exportMetas(
    checkpoint: string,
    context: Context<SupervisorInbox>,
  ): Promise<ReplyOf<MessageOf<'export-metas'>>> {
    const registered = this.#shelf.export(checkpoint);
    const sources = await exposeCheckpoint(context, registered, this.#members.allReady());
    return { digest: registered.status.digest, manifest: registered.manifest, sources };
  }

  /** Throws `UsageError` if there is none, or somebody reads it. */
  unregister(checkpoint: string, context: Context<SupervisorInbox>): void {
    this.#drop(this.#shelf.unregister(checkpoint), context);
  }

  /** Resolves with the bytes when they have been given back. */
  async releaseSpare(context: Context<SupervisorInbox>): Promise<number> {
    const bytes = this.#shelf.spareBytes;
    await this.#drop(this.#shelf.releaseSpare(), context);
    return bytes;
  }

  memoryLost(host: string, context: Context<SupervisorInbox>): void {
    context.log.warn({ host }, 'all ranks of the host had left, and what was in its memory went with them');
    void this.#drop(this.#shelf.memoryLost(host), context);
  }

  /** Runs something that may find host memory full; then once more, with spare memory given back if there is any. */
  withSpareMemory<T>(run: () => Promise<T>, context: Context<SupervisorInbox>): Promise<T> {
    return run().catch(async (error) => {
      if (!(error instanceof OutOfHostMemoryError) || this.#shelf.spareBytes === 0) throw error;
      context.log.info({ reason: error.message }, 'giving spare host memory back');
      await this.releaseSpare(context);
      return run();
    });
  }

  // ── tensors from memory ──────────────────────────────────────────────────────────────────────────────────────

  /** Throws `UsageError`. */
  reserve(
    { checkpoint, host, bytes, writer }: MessageOf<'reserve'>,
    context: Context<SupervisorInbox>,
  ): ReplyOf<MessageOf<'reserve'>> {
    this.#shelf.checkRoom(checkpoint);
    const ranks = this.#members.allJoined().filter((member) => member.host === host);
    if (ranks.length === 0) throw new UsageError(`host ${host} has no rank that could hold tensors`);
    this.#addWriter({ ref: writer, host }, context);
    const shares = shareTensors(
      bytes,
      ranks.map(({ rank }) => rank),
    );
    const spare = this.#shelf.spareSets;
    const reused = findSet(
      spare,
      shares.map((share) => ({ ...share, host })),
    );
    const directoryOf = new Map(ranks.map(({ rank, directory }) => [rank, directory]));
    const segmentName = this.#newName();
    const set =
      reused === null
        ? shares.map((share) => ({
            rank: share.rank,
            bytes: share.bytes,
            host,
            path: `${directoryOf.get(share.rank)!}/${segmentName}${share.rank}`,
          }))
        : spare[reused]!;
    this.#shelf.take(set);
    this.#lastReservation += 1;
    this.#reservations.set(this.#lastReservation, { set, writer, reservedAt: context.clock.now() });
    return {
      reservation: this.#lastReservation,
      isThere: reused !== null,
      segments: shares.map(({ rank, tensors }) => ({ ...set.find((one) => one.rank === rank)!, tensors })),
    };
  }

  /** What was reserved is whole, but will not be registered. Does nothing if there is no such reservation. */
  putBack(reservation: number, context: Context<SupervisorInbox>): void {
    const reserved = this.#take(reservation);
    if (reserved !== null) this.#drop(this.#shelf.putBack(reserved.set), context);
  }

  cancelReservation(reservation: number, context: Context<SupervisorInbox>): void {
    const reserved = this.#take(reservation);
    if (reserved !== null) this.#drop(this.#shelf.discard(reserved.set), context);
  }

  writerDown(ref: ActorRef<WriterMessage>, context: Context<SupervisorInbox>): void {
    this.#writers = this.#writers.filter((writer) => !sameActor(writer.ref, ref));
    for (const [reservation, { writer }] of this.#reservations) {
      if (sameActor(writer, ref)) this.cancelReservation(reservation, context);
    }
  }

  #redeem(number: number): Reservation {
    const reserved = this.#take(number);
    if (reserved === null) throw new UsageError(`there is no reservation ${number}`);
    return reserved;
  }

  /** Null if there is none of that number, or no more. */
  #take(number: number): Reservation | null {
    const reserved = this.#reservations.get(number) ?? null;
    this.#reservations.delete(number);
    return reserved;
  }

  #addWriter(writer: Writer, context: Context<SupervisorInbox>): void {
    const { ref } = writer;
    if (this.#writers.some((known) => sameActor(known.ref, ref))) return;
    if (this.#writers.length >= writerLimit)
      throw new UsageError(`${writerLimit} processes write tensors already`);
    this.#writers = [...this.#writers, writer];
    context.watch(ref, () => ({ type: 'writer-down', writer: ref }));
  }

  // ── what is not needed any more ──────────────────────────────────────────────────────────────────────────────

  /** Resolves when those who can be reached have given the memory back. */
  async #drop({ segments, layouts }: Dropped, context: Context<SupervisorInbox>): Promise<void> {
    for (const layout of layouts) context.tell(this.#planner, { type: 'forget-layout', layout });
    if (segments.length > 0) await this.forget(segments, context);
  }

  /** Resolves when those who can be reached have given the memory back, or hold it for others only. Never rejects. */
  async forget(segments: readonly Segment[], context: Context<SupervisorInbox>): Promise<void> {
    const pathsOf = this.#forgotten.add(segments);
    const holders: { readonly ref: ActorRef<WriterMessage>; readonly host: string }[] = [
      ...this.#members.allReady(),
      ...this.#writers,
    ];
    const told = holders.flatMap(({ ref, host }) => {
      const paths = pathsOf.get(host);
      if (paths === undefined) return [];
      const options = { deadlineMilliseconds: deadlines.abort };
      return ask(context, ref, toRank.forget, { segments: [...paths] }, options);
    });
    for (const outcome of await Promise.allSettled(told)) {
      if (outcome.status === 'rejected')
        context.log.warn({ error: asFailure(outcome.reason).message }, 'segments not given back in time');
    }
  }

  #newName(): string {
    this.#sets += 1;
    return this.#segmentName(this.#sets);
  }
}
