import { checkTensorCount } from '../../checkpoint/manifest-size.ts';
import { asFailure, OutOfHostMemoryError, UsageError } from '../../errors.ts';
import type { Copy } from '../../plan/reception.ts';
import { findSet } from '../../plan/segment-sets.ts';
import { shareTensors } from '../../plan/tensor-shares.ts';
import type { ActorRef, Context, ReplyOf } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import type { CheckpointStatus, Segment } from '../protocol/checkpoint-values.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { PlannerMessage } from '../protocol/planner.ts';
import { toRank } from '../protocol/rank.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';
import type { WriterMessage } from '../protocol/writer.ts';
import type { CheckpointLedger, Released, SegmentSet } from './checkpoint-ledger.ts';
import { exposeCheckpoint } from './export.ts';
import type { MessageOf, SupervisorInbox } from './inbox.ts';
import type { Jobs } from './jobs.ts';
import type { LastingMemory } from './lasting-memory.ts';
import type { RankRegistry } from './rank-registry.ts';
import { registerCheckpoint } from './registration.ts';
import type { ReleasedSegments } from './released-segments.ts';
import { type Reservation, Reservations, type Writer } from './reservations.ts';

/**
 * Registers, reserves, exports and releases checkpoints: changes the ledger, and notifies ranks, writers and the planner
 * of what follows.
 */
export class CheckpointService {
  readonly #ledger: CheckpointLedger;
  readonly #ranks: RankRegistry;
  readonly #released: ReleasedSegments;
  readonly #jobs: Jobs;
  readonly #segmentName: (set: number) => string;
  readonly #memory: LastingMemory;
  readonly #reservations: Reservations;
  #planner!: ActorRef<PlannerMessage>;
  #sets: number;
  /** What ranks are letting go of; false from one that does not. */
  readonly #releasing = new Set<Promise<boolean>>();

  constructor(
    ledger: CheckpointLedger,
    ranks: RankRegistry,
    released: ReleasedSegments,
    jobs: Jobs,
    segmentName: (set: number) => string,
    memory: LastingMemory,
  ) {
    this.#memory = memory;
    this.#sets = memory.firstNumber;
    this.#reservations = new Reservations(memory.firstNumber);
    ledger.recall(memory.checkpoints, memory.recalled.spare);
    this.#ledger = ledger;
    this.#ranks = ranks;
    this.#released = released;
    this.#jobs = jobs;
    this.#segmentName = segmentName;
  }

  started(planner: ActorRef<PlannerMessage>): void {
    this.#planner = planner;
  }

  // ── registrations ────────────────────────────────────────────────────────────────────────────────────────────

  /** Loads a checkpoint into the memory of all ranks. On a failure the ledger is as before, without the reservation. */
  async register(
    message: MessageOf<'register'>,
    context: Context<SupervisorInbox>,
  ): Promise<CheckpointStatus> {
    const { checkpoint, source } = message;
    try {
      this.#jobs.checkRegistration(checkpoint);
      this.#ledger.checkRoom(checkpoint);
      const ranks = this.#ranks.allJoined();
      const facts = { what: `registering ${checkpoint}`, checkpoint, ranks, instances: [] };
      return await this.#jobs.run({ kind: 'registration', ...facts }, ({ signal }) =>
        this.#load(message, ranks, context, signal),
      );
    } finally {
      // Still there if the registration was refused: what was written is complete.
      if (source.kind === 'written') this.#putBack(source.reservation, context);
    }
  }

  async #load(
    { checkpoint, source, hosts }: MessageOf<'register'>,
    ranks: readonly ReadyRank[],
    context: Context<SupervisorInbox>,
    signal: AbortSignal,
  ): Promise<CheckpointStatus> {
    const reserved = source.kind === 'written' ? this.#redeem(source.reservation) : null;
    const startedAt = reserved?.reservedAt ?? context.clock.now();
    let claimed: SegmentSet | null = reserved?.set ?? null;
    const discardClaimed = () => {
      if (claimed !== null) void this.#drop(this.#ledger.discard(claimed), context);
      claimed = null;
    };
    const claim = (segments: SegmentSet, reused: SegmentSet | null) => {
      if (reused !== null && !this.#ledger.isSpare(reused)) return false;
      claimed = reused ?? segments;
      this.#take(claimed);
      return true;
    };
    const load = async () => {
      const memory = { segmentName: this.#newSegmentName(), spare: this.#ledger.spareSets, claim };
      const spec = { checkpoint, source, hosts, ranks, startedAt, planner: this.#planner, ...memory };
      try {
        return await registerCheckpoint(context, spec, signal);
      } catch (error) {
        // Now, so that a second try finds room; but what a writer has written the second try uses too.
        if (reserved === null) discardClaimed();
        throw error;
      }
    };
    try {
      const registered = await this.withSpareMemory(load, context);
      void this.#drop(this.#ledger.register(registered, claimed), context);
      return registered.status;
    } catch (error) {
      discardClaimed();
      throw error;
    }
  }

  /** The segments of a checkpoint stay as they are until the returned function is called, once. */
  read(checkpoint: string, context: Context<SupervisorInbox>): () => void {
    const end = this.#ledger.read(checkpoint);
    return () => void this.#drop(end(), context);
  }

  /** Copies of a checkpoint that hosts have received are released with it. */
  addCopies(checkpoint: string, copies: readonly Copy[]): void {
    if (copies.length === 0) return;
    this.#ledger.addCopies(checkpoint, copies);
    this.#remember();
  }

  /**
   * Lets other clusters read a checkpoint for as long as it is registered; its host memory is not reused after that.
   * Rejects with `UsageError` and `CheckpointError`.
   */
  async exportMetas(
    checkpoint: string,
    context: Context<SupervisorInbox>,
  ): Promise<ReplyOf<MessageOf<'export-metas'>>> {
    const registered = this.#ledger.export(checkpoint);
    this.#remember();
    const sources = await exposeCheckpoint(context, registered, this.#ranks.allReady());
    return { digest: registered.status.digest, manifest: registered.manifest, sources };
  }

  /** Throws `UsageError` if there is no such checkpoint, or a job uses it. */
  unregister(checkpoint: string, context: Context<SupervisorInbox>): void {
    this.#jobs.checkUnused(checkpoint);
    void this.#drop(this.#ledger.unregister(checkpoint), context);
  }

  // ── tensors from memory ──────────────────────────────────────────────────────────────────────────────────────

  /** Throws `UsageError`. */
  reserve(
    { checkpoint, host, bytes, writer }: MessageOf<'reserve'>,
    context: Context<SupervisorInbox>,
  ): ReplyOf<MessageOf<'reserve'>> {
    // Nothing should be written that could not be registered now.
    this.#jobs.checkRegistration(checkpoint);
    checkTensorCount(checkpoint, bytes.length);
    this.#ledger.checkRoom(checkpoint);
    const ranks = this.#ranks.allJoined().filter((ready) => ready.host === host);
    if (ranks.length === 0) throw new UsageError(`host ${host} has no rank that could hold ${checkpoint}`);
    this.#addWriter(writer, host, context);
    const numbers = ranks.map(({ rank }) => rank);
    const shares = shareTensors(bytes, numbers).map((share) => ({ ...share, host }));
    const spare = this.#ledger.spareSets;
    const reused = findSet(spare, shares);
    const set = reused === null ? this.#newSet(shares, ranks) : spare[reused]!;
    this.#take(set);
    return {
      reservation: this.#reservations.add({ set, writer, reservedAt: context.clock.now() }),
      reused: reused !== null,
      segments: shares.map(({ rank, tensors }) => ({ ...set.find((one) => one.rank === rank)!, tensors })),
    };
  }

  #putBack(reservation: number, context: Context<SupervisorInbox>): void {
    const reserved = this.#reservations.take(reservation);
    if (reserved !== null) void this.#drop(this.#ledger.putBack(reserved.set), context);
  }

  /** Does nothing if there is no such reservation. */
  cancelReservation(reservation: number, context: Context<SupervisorInbox>): void {
    const reserved = this.#reservations.take(reservation);
    if (reserved !== null) void this.#drop(this.#ledger.discard(reserved.set), context);
  }

  writerDown(writer: ActorRef<WriterMessage>, context: Context<SupervisorInbox>): void {
    for (const reservation of this.#reservations.removeWriter(writer)) {
      this.cancelReservation(reservation, context);
    }
  }

  #addWriter(ref: ActorRef<WriterMessage>, host: string, context: Context<SupervisorInbox>): void {
    if (!this.#reservations.addWriter({ ref, host })) return;
    context.watch(ref, () => ({ type: 'writer-down', writer: ref }));
  }

  #redeem(number: number): Reservation {
    const reserved = this.#reservations.take(number);
    if (reserved === null) throw new UsageError(`there is no reservation ${number}`);
    return reserved;
  }

  #newSet(
    shares: readonly { readonly rank: number; readonly bytes: number; readonly host: string }[],
    ranks: readonly ReadyRank[],
  ): SegmentSet {
    const name = this.#newSegmentName();
    const directoryOf = new Map(ranks.map(({ rank, directory }) => [rank, directory]));
    return shares.map(({ rank, bytes, host }) => {
      return { rank, bytes, host, path: `${directoryOf.get(rank)!}/${name}${rank}` };
    });
  }

  #newSegmentName(): string {
    this.#sets += 1;
    return this.#segmentName(this.#sets);
  }

  /** Before anybody fills it: a later supervisor must not take it for spare then. */
  #take(set: SegmentSet): void {
    this.#ledger.take(set);
    this.#remember();
  }

  #remember(): void {
    this.#memory.writeCheckpoints(this.#ledger.records);
    const spare = [...this.#ledger.spareSets].reverse();
    this.#memory.write(
      'spare',
      spare.map((set) => [...set]),
    );
  }

  // ── release ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** Resolves once the memory is released. */
  async releaseSpare(context: Context<SupervisorInbox>): Promise<{ bytes: number }> {
    const bytes = this.#ledger.spareBytes;
    await this.#drop(this.#ledger.releaseSpare(), context);
    return { bytes };
  }

  hostMemoryLost(host: string, context: Context<SupervisorInbox>): void {
    context.log.warn({ host }, "the host's last rank exited; its checkpoint memory is gone");
    void this.#drop(this.#ledger.memoryLost(host), context);
  }

  /** Resolves when ranks have let go of all that was released before this call. */
  async released(): Promise<{ all: boolean }> {
    const outcomes = await Promise.all(this.#releasing);
    return { all: outcomes.every((isReleased) => isReleased) };
  }

  /** Runs `work`; if host memory is full and some of it is spare, releases that and runs `work` once more. */
  async withSpareMemory<T>(work: () => Promise<T>, context: Context<SupervisorInbox>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof OutOfHostMemoryError) || !(await this.freeSpare(context))) throw error;
      return work();
    }
  }

  /** Releases spare host memory because other memory is short. Resolves with whether there was any. */
  async freeSpare(context: Context<SupervisorInbox>): Promise<boolean> {
    if (this.#ledger.spareBytes === 0) return false;
    context.log.info({ bytes: this.#ledger.spareBytes }, 'releasing spare host memory');
    await this.releaseSpare(context);
    return true;
  }

  async #drop({ segments, layouts }: Released, context: Context<SupervisorInbox>): Promise<void> {
    this.#remember();
    for (const layout of layouts) context.tell(this.#planner, { type: 'release-layout', layout });
    if (segments.length === 0) return;
    const releasing = this.release(segments, context);
    this.#releasing.add(releasing);
    await releasing;
    this.#releasing.delete(releasing);
  }

  /**
   * Resolves when all ready ranks and writers of the hosts have released the segments, or keep them only while other
   * ranks read them; with false if one does not answer. Never rejects.
   */
  async release(segments: readonly Segment[], context: Context<SupervisorInbox>): Promise<boolean> {
    const pathsOf = this.#released.add(segments);
    const holders: readonly Writer[] = [...this.#ranks.allReady(), ...this.#reservations.writers];
    const options = { deadlineMilliseconds: deadlines.abort };
    const releases = holders.map(async ({ ref, host }) => {
      const paths = pathsOf.get(host);
      if (paths === undefined) return true;
      try {
        await ask(context, ref, toRank.release, { segments: [...paths] }, options);
        return true;
      } catch (thrown) {
        const error = asFailure(thrown).message;
        context.log.warn({ host, actor: ref.name, error }, 'segments were not released');
        return false;
      }
    });
    return (await Promise.all(releases)).every((isReleased) => isReleased);
  }
}
