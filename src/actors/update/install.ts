import { asFailure, type WeightcastError } from '../../errors.ts';
import { ask } from '../protocol/ask.ts';
import { toBridge } from '../protocol/bridge.ts';
import { deadlines } from '../protocol/deadlines.ts';
import { toRank } from '../protocol/rank.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';
import type { Streamed } from '../protocol/update-values.ts';
import { Arrival } from './arrival.ts';
import { ArrivalVerification, answerMilliseconds } from './arrival-verification.ts';
import type { UpdateContext, UpdateTarget } from './context.ts';
import { partsOf } from './groups.ts';
import { type InstanceEnds, unproved } from './instance-ends.ts';
import { answerInTime } from './late-answer.ts';
import type { OpenEpoch } from './open.ts';
import { type Bringing, checkReads } from './parts.ts';
import { ReplicaComparison } from './replica-comparison.ts';
import type { Serving } from './serving.ts';
import { timedRanks } from './timed-ranks.ts';

/**
 * Streams an open epoch into the engines. An instance that is whole is verified and ends at once, whatever others do; one that
 * fails takes those down that it shares something with.
 */
export class Installing {
  readonly #update: UpdateContext;
  readonly #open: OpenEpoch;
  readonly #ends: InstanceEnds;
  readonly #serving: Serving;
  readonly #streamed = new Map<number, Streamed>();
  readonly #answered = new Set<UpdateTarget>();
  readonly #comparison: ReplicaComparison;
  readonly #verifying: ArrivalVerification;
  readonly #parts: readonly UpdateContext[];
  readonly #bringing: Bringing = new Map();
  /** Ranks whose timelines the report will show. */
  readonly #timed: ReadonlySet<number>;

  constructor(update: UpdateContext, open: OpenEpoch, ends: InstanceEnds, serving: Serving) {
    this.#update = update;
    this.#open = open;
    this.#ends = ends;
    this.#serving = serving;
    this.#comparison = new ReplicaComparison(update);
    this.#verifying = new ArrivalVerification(update, open.epoch);
    this.#parts = update.divide(partsOf(update.spec.targets, open.groups));
    this.#timed = timedRanks(open, update.spec.exchanges);
  }

  /** Of the ranks whose streams ended well. */
  get streamed(): ReadonlyMap<number, Streamed> {
    return this.#streamed;
  }

  /** All engines have got everything and have answered, but for parts that only release what they took. */
  get isOver(): boolean {
    return this.#parts.every((part) => part.isReleasing || this.#unfinished(part).length === 0);
  }

  /** The names of the instances whose engines have not got everything, or have not answered. */
  get unfinished(): string[] {
    return this.#parts.flatMap((part) => this.#unfinished(part)).map(({ name }) => name);
  }

  #unfinished({ spec }: UpdateContext): UpdateTarget[] {
    return spec.targets.filter((target) => !this.#answered.has(target) || !this.#hasAcknowledged(target));
  }

  /**
   * The engines' HTTP answers and the ranks' streams race: the first failure in a part ends the wait for it, and no other.
   * Where there are several parts, `onFailed` then says what becomes of its instances. Rejects with the failure of the only
   * part. In any case it is noted which instances may hold parts of the epoch, and those that were whole have ended.
   */
  async run(onFailed: (part: UpdateContext, error: WeightcastError) => Promise<void>): Promise<void> {
    await Promise.all(
      this.#parts.map(async (part) => {
        try {
          await this.#runPart(part);
        } catch (thrown) {
          if (this.#parts.length === 1) throw thrown;
          await onFailed(part, asFailure(thrown));
        }
      }),
    );
  }

  async #runPart(part: UpdateContext): Promise<void> {
    const { spec, cancelled } = part;
    // Ranks first: the first upload need not wait for the HTTP requests to be sent.
    const streams = new Map(spec.ranks.map((ready) => [ready.rank, this.#stream(part, ready)]));
    const installs = spec.targets.map((target) =>
      this.#install(
        part,
        target,
        target.ranks.map((rank) => streams.get(rank)!),
      ),
    );
    cancelled.catch(() => {});
    try {
      await Promise.race([Promise.all(installs), cancelled]);
    } catch (thrown) {
      await this.#abort(part, asFailure(thrown).message, installs);
      throw thrown;
    }
  }

  async #install(
    part: UpdateContext,
    target: UpdateTarget,
    streams: readonly Promise<void>[],
  ): Promise<void> {
    const arrival = new Arrival(part, target);
    const triggered = this.#trigger(part, target).then(() => arrival.answered());
    const answered = answerInTime(part, target, triggered, streams);
    try {
      await Promise.all([answered, this.#startLoading(part, target, arrival), ...streams]);
    } catch (thrown) {
      this.#comparison.leave(target);
      throw thrown;
    }
    const { verify } = this.#update.spec.options;
    let proofs = unproved(verify);
    try {
      if (this.#reportsArrival(target)) {
        await this.#verify(target);
        const isProof = target.ranks.every((rank) => this.#streamed.get(rank)!.seenBy === 'worker');
        if (isProof) proofs = { ...proofs, arrived: 'holds' };
      }
      await this.#checkReads(target);
      if (verify.installed) {
        proofs = { ...proofs, installed: await this.#comparison.compare(target, this.#streamed) };
      }
    } catch (thrown) {
      this.#comparison.leave(target);
      return this.#ends.wrong(target, asFailure(thrown));
    }
    await this.#serving.serve(target, proofs);
  }

  async #stream(part: UpdateContext, { rank, ref }: ReadyRank): Promise<void> {
    const { epoch } = this.#open;
    const within = part.within(part.left() + deadlines.control);
    const question = { epoch, timeline: this.#timed.has(rank) };
    const streamed = ask(part.context, ref, toRank.stream, question, within);
    this.#streamed.set(rank, await part.answerOf(rank, streamed));
  }

  /** No worker gets a bucket before all have connected, so that an engine which has too few of them is left as it was. */
  async #startLoading(part: UpdateContext, target: UpdateTarget, arrival: Arrival): Promise<void> {
    const { context, spec } = part;
    const { epoch } = this.#open;
    const ranks = spec.ranks.filter(({ rank }) => target.ranks.includes(rank));
    const arrivals = ranks.map(async ({ rank, ref }) => {
      const within = part.within(part.left() + deadlines.control);
      await part.answerOf(rank, ask(context, ref, toRank.connected, { epoch }, within));
      arrival.arrived(rank);
    });
    try {
      await Promise.race([Promise.all(arrivals), arrival.late]);
    } finally {
      arrival.end();
    }
    for (const { ref } of ranks) context.tell(ref, { type: 'start-loading', epoch });
  }

  async #trigger(part: UpdateContext, target: UpdateTarget): Promise<void> {
    const { context, spec, failures } = part;
    const { epoch, links } = this.#open;
    const timeoutMilliseconds = part.left();
    const deviceOf = new Map(spec.ranks.map(({ rank, deviceUuid }) => [rank, deviceUuid]));
    const own = Object.fromEntries(target.ranks.map((rank) => [deviceOf.get(rank)!, links.get(rank)!]));
    const resetCache = target.cacheReset === 'always';
    const question = { epoch, links: own, resetCache, timeoutMilliseconds };
    const options = part.untilEnded(timeoutMilliseconds + deadlines.control);
    try {
      await ask(context, target.bridge, toBridge.trigger, question, options);
    } catch (thrown) {
      // What comes after the abort is mostly the echo of it; a fault of its own shows again in the next round.
      if (!part.isReleasing) failures.ofEngine(target, asFailure(thrown));
      throw thrown;
    }
    this.#answered.add(target);
  }

  /** Engines whose workers have all acknowledged everything get the time to answer, all others are abandoned. */
  async #abort(part: UpdateContext, reason: string, installs: readonly Promise<void>[]): Promise<void> {
    const { targets } = part.spec;
    const acknowledged = new Set(targets.filter((target) => this.#hasAcknowledged(target)));
    for (const target of targets) if (!acknowledged.has(target)) this.#comparison.leave(target);
    const loadsOf = await part.fail(this.#open.epoch, reason, acknowledged);
    await this.#settledSoon(installs.filter((_, index) => acknowledged.has(targets[index]!)));
    const unanswered = targets.filter((target) => !this.#answered.has(target));
    await Promise.allSettled(part.abandonCalls(reason, unanswered));
    part.end(`epoch ${this.#open.epoch} was aborted`);
    // Those that have answered are being verified, which has a deadline of its own.
    await Promise.allSettled(installs);
    for (const target of this.#unfinished(part)) {
      // A rank that has not answered may have sent its worker anything.
      if (target.ranks.some((rank) => loadsOf.get(rank) !== 0)) this.#ends.loaded(target);
    }
  }

  /** Waits until all have settled, but not for long. */
  async #settledSoon(work: readonly Promise<unknown>[]): Promise<void> {
    let cancel = () => {};
    const late = new Promise<void>((resolve) => {
      cancel = this.#update.context.clock.after(answerMilliseconds, resolve);
    });
    await Promise.race([Promise.allSettled(work), late]);
    cancel();
  }

  #hasAcknowledged({ ranks }: UpdateTarget): boolean {
    return ranks.every((rank) => this.#streamed.has(rank));
  }

  /** Whether digests of what arrived were asked for, and there are some of each worker of the instance. */
  #reportsArrival({ ranks }: UpdateTarget): boolean {
    if (!this.#update.spec.options.verify.arrived) return false;
    return ranks.every((rank) => this.#streamed.get(rank)!.arrived !== null);
  }

  /** Where all of its workers have said in this update what they have read. Rejects with `VerificationError`. */
  async #checkReads(target: UpdateTarget): Promise<void> {
    const ranks = target.ranks.flatMap((rank) => {
      const learned = this.#streamed.get(rank)!.learned;
      return learned === null ? [] : [{ rank, digest: learned.digest }];
    });
    if (ranks.length < target.ranks.length || this.#update.spec.options.acceptUnproven) return;
    await checkReads(this.#update, target, ranks, this.#bringing);
  }

  /** Rejects with `VerificationError`. */
  async #verify({ name, ranks }: UpdateTarget): Promise<void> {
    const planOf = new Map(
      this.#open.groups.flatMap(({ plan, ranks: members }) => members.map(({ rank }) => [rank, plan])),
    );
    const reports = ranks.map((rank) => {
      return { rank, plan: planOf.get(rank)!, arrived: this.#streamed.get(rank)!.arrived! };
    });
    if (reports.every(({ arrived }) => arrived === 'as registered')) return;
    await this.#verifying.verify(name, reports);
  }
}
