import type { PauseMode } from '../../engines/engine-client.ts';
import { asFailure } from '../../errors.ts';
import type { Copy } from '../../plan/reception.ts';
import { LeasedSources } from '../join/leased-sources.ts';
import type { Context } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import { toBridge } from '../protocol/bridge.ts';
import { deadlines } from '../protocol/deadlines.ts';
import { toPlanner } from '../protocol/planner.ts';
import { toRank } from '../protocol/rank.ts';
import type { RankTimeline, Received, Streamed, UpdateReport } from '../protocol/values.ts';
import type { SupervisorInbox } from '../supervisor/inbox.ts';
import { type InstanceMember, type UpdateOrder, UpdateScope } from './context.ts';
import { Opener, type Opening, versionOf } from './open.ts';

export interface UpdateOutcome {
  readonly report: UpdateReport;
  /** What the ranks have received from other hosts, and keep. */
  readonly copies: readonly Copy[];
}

/** Of the report that goes to whoever asked for the update; a message may have four times as much. */
const timelineBytes = 4 * 2 ** 20;
/** What engines are given to go on, though the time of the update is over. */
const leastResumeMilliseconds = 5_000;

/**
 * Engines that take longer to say that they are ready may have started meanwhile and taken device memory: what was
 * planned before is out of date. Less than what lies between two questions to an engine.
 */
const readyMilliseconds = 100;

/**
 * One update from prepare to verify, told in order. It holds no state that outlives it: the supervisor commits what
 * it returns. Whatever fails, every rank has given back what it took before this rejects.
 */
export class Update {
  readonly #scope: UpdateScope;
  readonly #sources: LeasedSources;
  #awaited: string | null = null;

  constructor(context: Context<SupervisorInbox>, order: UpdateOrder, signal: AbortSignal) {
    this.#scope = new UpdateScope(context, order, signal);
    this.#sources = new LeasedSources(this.#scope);
  }

  /** What it waits for, in words; null while it does what is done however late it is: engines go on, memory is given back. */
  get awaited(): string | null {
    return this.#scope.hasFailed ? null : this.#awaited;
  }

  /** A rank that does not take part is gone: others are read from in its place. */
  sourceLost(rank: number, reason: string, returns: boolean): void {
    this.#sources.lost(rank, reason, returns);
  }

  /** A rank that does not take part has come. */
  sourceReady(rank: number): void {
    this.#sources.ready(rank);
  }

  async run(): Promise<UpdateOutcome> {
    const startedAt = this.#scope.context.clock.now();
    try {
      const opening = await this.#open();
      this.#awaited = 'engines to pause';
      await this.#pauseEngines(opening);
      this.#awaited = 'engines to install it';
      const streamed = await this.#streamIntoEngines(opening);
      this.#awaited = 'its verification';
      const verified = await this.#verify(opening, streamed);
      this.#awaited = null;
      await this.#resumeEngines(this.#pausable());
      this.#sources.release(this.#scope.order.options.keepCopy);
      const seconds = (this.#scope.context.clock.now() - startedAt) / 1000;
      return {
        report: this.#report(opening, streamed, verified, seconds),
        copies: this.#keepMirrors(opening),
      };
    } catch (error) {
      this.#sources.release(false);
      this.#scope.order.onMirrorsUnused(this.#scope.mirrors);
      throw error;
    }
  }

  #report(
    { epoch, groups }: Opening,
    streamed: readonly Streamed[],
    verified: true | null,
    seconds: number,
  ): UpdateReport {
    const { checkpoint, ranks } = this.#scope.order;
    const plans = groups.map(({ plan }) => plan);
    const received = receivedFrom(streamed);
    return {
      epoch,
      checkpoint: checkpoint.status.checkpoint,
      digest: checkpoint.status.digest,
      mode: plans.some(({ mode }) => mode === 'serial') ? 'serial' : 'pipelined',
      ranks: ranks.length,
      tensors: checkpoint.status.tensors,
      bytes: checkpoint.status.bytes,
      receivedBytes: received.reduce((sum, { bytes }) => sum + bytes, 0),
      received,
      buckets: Math.max(...plans.map(({ owners }) => owners.length)),
      slots: Math.max(...plans.map(({ slots }) => slots)),
      slotBytes: Math.max(...plans.map(({ slotBytes }) => slotBytes)),
      seconds,
      streamSeconds: streamSeconds(streamed),
      verified,
      timelines: firstTimelines(streamed),
    };
  }

  /** What was received stays as copies, unless it is not wanted. */
  #keepMirrors({ groups }: Opening): Copy[] {
    const { options, onMirrorsUnused } = this.#scope.order;
    const copies = groups.flatMap(({ mirrors }) => mirrors);
    if (options.keepCopy) return copies;
    onMirrorsUnused(copies);
    return [];
  }

  /** Ranks prepare while engines are asked whether they are ready; nothing is taken before all of them are. */
  async #open(): Promise<Opening> {
    const { clock } = this.#scope.context;
    const opener = new Opener(this.#scope, this.#sources);
    this.#awaited = 'engines to be ready';
    const planning = opener.plan();
    // Its failure counts only if engines were ready all the time.
    planning.catch(() => {});
    const askedAt = clock.now();
    try {
      await this.#awaitEngines();
    } catch (thrown) {
      await Promise.allSettled([...this.#scope.abandonBridges(asFailure(thrown).message), planning]);
      throw thrown;
    }
    this.#awaited = 'ranks to prepare';
    if (clock.now() - askedAt <= readyMilliseconds) return opener.open(await planning);
    await Promise.allSettled([planning]);
    return opener.open(null);
  }

  async #awaitEngines(): Promise<void> {
    const timeoutMilliseconds = this.#scope.left(deadlines.engineHealthy);
    // As with every call of a bridge: it ends in time by itself, and says so in better words.
    const within = this.#scope.within(timeoutMilliseconds + deadlines.control);
    const asks = this.#scope.order.instances.map(({ bridge }) =>
      ask(this.#scope.context, bridge, toBridge.awaitHealthy, { timeoutMilliseconds }, within),
    );
    await Promise.all(asks);
  }

  // ── pause, resume ────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * From here until {@link #resumeEngines} they generate nothing. If one cannot be paused, none stays so but those that
   * hold parts of several versions.
   */
  async #pauseEngines({ epoch }: Opening): Promise<void> {
    const timeoutMilliseconds = this.#scope.left();
    const within = this.#scope.within(timeoutMilliseconds + deadlines.control);
    const pauses = this.#pausable().map(({ bridge, pause: mode }) => {
      const order = { mode, timeoutMilliseconds };
      return ask(this.#scope.context, bridge, toBridge.pause, order, within);
    });
    try {
      await this.#scope.allOrAbandon(epoch, pauses);
    } catch (error) {
      const whole = this.#pausable().filter(({ isMixed }) => !isMixed);
      await this.#resumeEngines(whole).catch((thrown) => {
        this.#scope.context.log.warn(
          { epoch, error: asFailure(thrown).message },
          'an engine may have stayed paused',
        );
      });
      throw error;
    }
  }

  /** Late or not: an engine that stays paused serves nobody. */
  async #resumeEngines(instances: readonly InstanceMember[]): Promise<void> {
    const timeoutMilliseconds = Math.max(leastResumeMilliseconds, this.#scope.left(deadlines.engineResume));
    const options = { deadlineMilliseconds: timeoutMilliseconds + deadlines.control };
    const resumes = instances.map(({ bridge }) =>
      ask(this.#scope.context, bridge, toBridge.resume, { timeoutMilliseconds }, options),
    );
    const failed = (await Promise.allSettled(resumes)).find((outcome) => outcome.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  #pausable(): (InstanceMember & { readonly pause: PauseMode })[] {
    return this.#scope.order.instances.flatMap((instance) => {
      const { pause } = instance;
      return pause === null ? [] : [{ ...instance, pause }];
    });
  }

  // ── trigger, stream ──────────────────────────────────────────────────────────────────────────────────────────

  /** The engines' HTTP answers and the ranks' streams race: whichever fails first ends the wait for all. */
  async #streamIntoEngines({ epoch, links }: Opening): Promise<Streamed[]> {
    const { ranks, instances, checkpoint } = this.#scope.order;
    const version = versionOf(checkpoint);
    const timeoutMilliseconds = this.#scope.left();
    const within = this.#scope.within(timeoutMilliseconds + deadlines.control);
    const deviceOf = new Map(ranks.map(({ rank, deviceUuid }) => [rank, deviceUuid]));
    this.#scope.order.onEnginesTouched();
    // Ranks first: the first upload need not wait until the HTTP requests are made.
    const streams = ranks.map(({ ref }) => ask(this.#scope.context, ref, toRank.stream, { epoch }, within));
    const triggers = instances.map(({ bridge, ranks: members, resetCache }) => {
      const own = Object.fromEntries(members.map((rank) => [deviceOf.get(rank)!, links.get(rank)!]));
      const order = { epoch, links: own, version, resetCache, timeoutMilliseconds };
      return ask(this.#scope.context, bridge, toBridge.trigger, order, within);
    });
    await this.#scope.allOrAbandon<unknown>(epoch, [...triggers, ...streams]);
    return Promise.all(streams);
  }

  async #verify({ groups }: Opening, streamed: readonly Streamed[]): Promise<true | null> {
    const { options, instances, ranks, planner, checkpoint } = this.#scope.order;
    if (!options.verify || streamed.some(({ arrivedDigests }) => arrivedDigests === null)) return null;
    const digestsOf = new Map(ranks.map(({ rank }, index) => [rank, streamed[index]!.arrivedDigests!]));
    const planOf = new Map(
      groups.flatMap(({ plan, ranks: members }) => members.map(({ rank }) => [rank, plan])),
    );
    for (const { name, ranks: members } of instances) {
      const reports = members.map((rank) => {
        return { rank, plan: planOf.get(rank)!, arrivedDigests: digestsOf.get(rank)! };
      });
      const question = { layout: checkpoint.layout, instance: name, reports };
      await ask(this.#scope.context, planner, toPlanner.verify, question, this.#scope.within(deadlines.plan));
    }
    return true;
  }
}

function receivedFrom(streamed: readonly Streamed[]): Received[] {
  const bytesOf = new Map<number, number>();
  for (const { from, bytes } of streamed.flatMap(({ received }) => received)) {
    bytesOf.set(from, (bytesOf.get(from) ?? 0) + bytes);
  }
  return [...bytesOf].map(([from, bytes]) => ({ from, bytes })).sort((one, other) => one.from - other.from);
}

function firstTimelines(streamed: readonly Streamed[]): RankTimeline[] {
  let bytes = 0;
  const timelines: RankTimeline[] = [];
  for (const { timeline } of streamed) {
    const { read, h2d, broadcast, reload } = timeline;
    for (const column of [read, h2d, broadcast, reload]) bytes += column.byteLength;
    if (bytes > timelineBytes) break;
    timelines.push(timeline);
  }
  return timelines;
}

function streamSeconds(streamed: readonly Streamed[]): number {
  let start = Number.POSITIVE_INFINITY;
  let end = 0;
  for (const { timeline } of streamed) {
    for (let at = 0; at < timeline.h2d.length; at += 3) start = Math.min(start, timeline.h2d[at + 1]!);
    for (let at = 0; at < timeline.reload.length; at += 3) end = Math.max(end, timeline.reload[at + 2]!);
  }
  return end > start ? (end - start) / 1000 : 0;
}
