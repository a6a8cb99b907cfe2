import type { PauseMode } from '../engines/engine-client.ts';
import { AbortedError, asFailure, MemoryError, type WeightcastError } from '../errors.ts';
import type { Plan } from '../plan/buckets.ts';
import type { CommunicatorKeeper } from './communicator-keeper.ts';
import { ask } from './conversation.ts';
import { deadlines } from './deadlines.ts';
import type { ActorRef, Context } from './kernel/index.ts';
import type { RankMember } from './members.ts';
import {
  type BridgeMessage,
  type PlannerMessage,
  type RankTimeline,
  type Registered,
  type Streamed,
  type SupervisorMessage,
  toBridge,
  toPlanner,
  toRank,
  type UpdateOptions,
  type UpdateReport,
} from './messages.ts';

/** An instance that is updated, through its bridge and the ranks on its devices. */
export interface InstanceMember {
  readonly name: string;
  readonly bridge: ActorRef<BridgeMessage>;
  readonly ranks: readonly number[];
  /** It holds parts of several versions, and is paused for that if it can be. */
  readonly isMixed: boolean;
  /** How to pause it during the update; null: not at all. */
  readonly pause: PauseMode | null;
  readonly resetCache: boolean;
}

export interface UpdateOrder {
  readonly checkpoint: Registered;
  readonly options: UpdateOptions;
  readonly ranks: readonly RankMember[];
  readonly instances: readonly InstanceMember[];
  readonly planner: ActorRef<PlannerMessage>;
  /** Numbers that only grow; each attempt takes a new one. */
  readonly nextEpoch: () => number;
  readonly communicator: CommunicatorKeeper;
  /** Called in the moment before engines may change. */
  readonly onEnginesTouched: () => void;
}

interface Opening {
  readonly epoch: number;
  readonly plan: Plan;
  /** Rank to the address of its worker link. */
  readonly links: ReadonlyMap<number, string>;
}

/** Of the report that goes to whoever asked for the update; a message may have four times as much. */
const timelineBytes = 4 * 2 ** 20;

/** A rank that refuses even after this many smaller plans is not short of memory for a moment. */
const planningAttempts = 4;

/**
 * One update from prepare to verify, told in order. It holds no state that outlives it: the supervisor commits what
 * it returns. Whatever fails, every rank has given back what it took before this rejects.
 */
export class Update {
  readonly #context: Context<SupervisorMessage>;
  readonly #order: UpdateOrder;
  readonly #signal: AbortSignal;
  /** Ends the asks that are still open once the update has failed. */
  readonly #ended = new AbortController();

  constructor(context: Context<SupervisorMessage>, order: UpdateOrder, signal: AbortSignal) {
    this.#context = context;
    this.#order = order;
    this.#signal = signal;
  }

  async run(): Promise<UpdateReport> {
    const { checkpoint, ranks } = this.#order;
    const startedAt = this.#context.clock.now();
    await this.#awaitEngines();
    const opening = await this.#openWithinMemory();
    await this.#pauseEngines(opening);
    const streamed = await this.#streamIntoEngines(opening);
    const verified = await this.#verify(opening, streamed);
    await this.#resumeEngines(this.#pausable());
    return {
      epoch: opening.epoch,
      checkpoint: checkpoint.status.checkpoint,
      digest: checkpoint.status.digest,
      mode: opening.plan.mode,
      ranks: ranks.length,
      tensors: checkpoint.status.tensors,
      bytes: checkpoint.status.bytes,
      buckets: opening.plan.owners.length,
      slotBytes: opening.plan.slotBytes,
      seconds: (this.#context.clock.now() - startedAt) / 1000,
      streamSeconds: streamSeconds(streamed),
      verified,
      timelines: firstTimelines(streamed),
    };
  }

  async #awaitEngines(): Promise<void> {
    const timeoutMilliseconds = deadlines.engineHealthy;
    // As with every call of a bridge: it ends in time by itself, and says so in better words.
    const within = this.#within(timeoutMilliseconds + deadlines.control);
    const asks = this.#order.instances.map(({ bridge }) =>
      ask(this.#context, bridge, toBridge.awaitHealthy, { timeoutMilliseconds }, within),
    );
    try {
      await Promise.all(asks);
    } catch (thrown) {
      await Promise.allSettled(this.#abandonBridges(asFailure(thrown).message));
      throw thrown;
    }
  }

  // ── prepare, plan, open ──────────────────────────────────────────────────────────────────────────────────────

  /** Plans for the memory there is; an allocation that fails all the same is answered with a smaller plan. */
  async #openWithinMemory(): Promise<Opening> {
    const ceilings = new Map<number, number>();
    for (let attempt = 1; attempt <= planningAttempts; attempt += 1) {
      const opened = await this.#prepareAndOpen(ceilings);
      if (opened !== null) return opened;
    }
    const refusing = [...ceilings.keys()].join(', ');
    throw new MemoryError(
      `rank ${refusing} refused its slots ${planningAttempts} times; free device memory there`,
    );
  }

  /** Null after pressure: `ceilings` then holds what to plan with instead. */
  async #prepareAndOpen(ceilings: Map<number, number>): Promise<Opening | null> {
    const { ranks, checkpoint, options, planner } = this.#order;
    const epoch = this.#order.nextEpoch();
    const missing = this.#order.communicator.missing(ranks);
    const prepared = await Promise.all(
      ranks.map(({ ref }, index) => {
        const question = { epoch, createCommunicator: index === 0 ? missing : null };
        return ask(this.#context, ref, toRank.prepare, question, this.#within(deadlines.control));
      }),
    );
    this.#order.communicator.hold(prepared[0]!.communicatorId);
    const available = ranks.map(({ rank, host }, index) => ({
      rank,
      host,
      freeBytes: Math.min(prepared[index]!.freeBytes, ceilings.get(rank) ?? Number.POSITIVE_INFINITY),
    }));
    const plan = await ask(
      this.#context,
      planner,
      toPlanner.plan,
      {
        layout: checkpoint.layout,
        ranks: available,
        memoryFraction: options.memoryFraction,
        bucketBytes: options.bucketBytes ?? Math.max(...prepared.map(({ bucketBytes }) => bucketBytes)),
      },
      this.#within(deadlines.plan),
    );
    const communicator = this.#order.communicator.offer();
    const answers = await this.#allOrAbandon(
      epoch,
      ranks.map(({ ref }, index) => {
        const { planDigests, layouts } = prepared[index]!;
        const order = {
          epoch,
          version: versionOf(checkpoint),
          verify: options.verify,
          communicator,
          planDigest: plan.digest,
          layout: plan.layout,
          plan: planDigests.includes(plan.digest) ? null : plan,
          manifest: layouts.includes(plan.layout) ? null : checkpoint.manifest,
          // Half of what the plan left alone.
          reserveBytes: (available[index]!.freeBytes * (1 - options.memoryFraction)) / 2,
        };
        return ask(this.#context, ref, toRank.open, order, this.#within(deadlines.open));
      }),
    );
    const links = new Map<number, string>();
    for (const [index, answer] of answers.entries()) {
      const { rank, freeBytes } = available[index]!;
      if (answer.outcome === 'open') links.set(rank, answer.linkAddress);
      // Enough was free and still the allocation failed: someone else took it meanwhile, or it is in pieces.
      else ceilings.set(rank, answer.freeBytes < answer.wantedBytes ? answer.freeBytes : freeBytes / 2);
    }
    if (links.size === ranks.length) return { epoch, plan, links };
    await this.#abandon(epoch, 'planning again after memory pressure');
    return null;
  }

  // ── pause, resume ────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * From here until {@link #resumeEngines} they generate nothing. If one cannot be paused, none stays so but those that
   * hold parts of several versions.
   */
  async #pauseEngines({ epoch }: Opening): Promise<void> {
    const { timeoutMilliseconds } = this.#order.options;
    const within = this.#within(timeoutMilliseconds + deadlines.control);
    const pauses = this.#pausable().map(({ bridge, pause: mode }) => {
      const order = { mode, timeoutMilliseconds };
      return ask(this.#context, bridge, toBridge.pause, order, within);
    });
    try {
      await this.#allOrAbandon(epoch, pauses);
    } catch (error) {
      const whole = this.#pausable().filter(({ isMixed }) => !isMixed);
      await this.#resumeEngines(whole).catch((thrown) => {
        this.#context.log.warn(
          { epoch, error: asFailure(thrown).message },
          'an engine may have stayed paused',
        );
      });
      throw error;
    }
  }

  async #resumeEngines(instances: readonly InstanceMember[]): Promise<void> {
    const timeoutMilliseconds = deadlines.engineResume;
    const options = { deadlineMilliseconds: timeoutMilliseconds + deadlines.control };
    const resumes = instances.map(({ bridge }) =>
      ask(this.#context, bridge, toBridge.resume, { timeoutMilliseconds }, options),
    );
    const failed = (await Promise.allSettled(resumes)).find((outcome) => outcome.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  #pausable(): (InstanceMember & { readonly pause: PauseMode })[] {
    return this.#order.instances.flatMap((instance) => {
      const { pause } = instance;
      return pause === null ? [] : [{ ...instance, pause }];
    });
  }

  // ── trigger, stream ──────────────────────────────────────────────────────────────────────────────────────────

  /** The engines' HTTP answers and the ranks' streams race: whichever fails first ends the wait for all. */
  async #streamIntoEngines({ epoch, links }: Opening): Promise<Streamed[]> {
    const { ranks, instances, options, checkpoint } = this.#order;
    const version = versionOf(checkpoint);
    const { timeoutMilliseconds } = options;
    const within = this.#within(timeoutMilliseconds + deadlines.control);
    const deviceOf = new Map(ranks.map(({ rank, deviceUuid }) => [rank, deviceUuid]));
    this.#order.onEnginesTouched();
    const triggers = instances.map(({ bridge, ranks: members, resetCache }) => {
      const own = Object.fromEntries(members.map((rank) => [deviceOf.get(rank)!, links.get(rank)!]));
      const order = { epoch, links: own, version, resetCache, timeoutMilliseconds };
      return ask(this.#context, bridge, toBridge.trigger, order, within);
    });
    const streams = ranks.map(({ ref }) => ask(this.#context, ref, toRank.stream, { epoch }, within));
    await this.#allOrAbandon<unknown>(epoch, [...triggers, ...streams]);
    return Promise.all(streams);
  }

  async #verify({ plan }: Opening, streamed: readonly Streamed[]): Promise<true | null> {
    const { options, instances, ranks, planner } = this.#order;
    if (!options.verify || streamed.some(({ installed }) => installed === null)) return null;
    const installedOf = new Map(ranks.map(({ rank }, index) => [rank, streamed[index]!.installed!]));
    for (const { name, ranks: members } of instances) {
      const reports = members.map((rank) => ({ rank, installed: installedOf.get(rank)! }));
      const question = { layout: plan.layout, planDigest: plan.digest, instance: name, reports };
      await ask(this.#context, planner, toPlanner.verify, question, this.#within(deadlines.plan));
    }
    return true;
  }

  // ── failure ──────────────────────────────────────────────────────────────────────────────────────────────────

  /** Waits for all; if one fails, what epoch `epoch` took is given back before the failure goes on. */
  async #allOrAbandon<T>(epoch: number, work: readonly Promise<T>[]): Promise<T[]> {
    try {
      return await Promise.all(work);
    } catch (thrown) {
      await this.#abandon(epoch, asFailure(thrown).message);
      this.#ended.abort(new AbortedError(`epoch ${epoch} was abandoned`));
      throw this.#rootCause(asFailure(thrown), await Promise.allSettled(work));
    }
  }

  /** One failure makes others: peers of a rank that failed are aborted, and may answer before it does. */
  #rootCause(first: WeightcastError, outcomes: readonly PromiseSettledResult<unknown>[]): WeightcastError {
    const failures = outcomes.filter((outcome) => outcome.status === 'rejected');
    const errors = [first, ...failures.map((outcome) => asFailure(outcome.reason))];
    return errors.find((error) => !(error instanceof AbortedError)) ?? first;
  }

  /** Everyone who can still be reached gives back what epoch `epoch` took. Never rejects. */
  async #abandon(epoch: number, reason: string): Promise<void> {
    const options = { deadlineMilliseconds: deadlines.abort };
    const bridges = this.#abandonBridges(reason);
    const ranks = this.#order.ranks.map(({ ref }) =>
      ask(this.#context, ref, toRank.abort, { epoch, reason }, options),
    );
    for (const outcome of await Promise.allSettled([...bridges, ...ranks])) {
      if (outcome.status === 'fulfilled') continue;
      this.#context.log.warn({ epoch, error: asFailure(outcome.reason).message }, 'not given back in time');
    }
  }

  #abandonBridges(reason: string): Promise<unknown>[] {
    const options = { deadlineMilliseconds: deadlines.abort };
    return this.#order.instances.map(({ bridge }) =>
      ask(this.#context, bridge, toBridge.abandon, { reason }, options),
    );
  }

  #within(deadlineMilliseconds: number): { deadlineMilliseconds: number; signal: AbortSignal } {
    return { deadlineMilliseconds, signal: AbortSignal.any([this.#signal, this.#ended.signal]) };
  }
}

export function versionOf({ status }: Registered): string {
  return `${status.checkpoint}@${status.digest}`;
}

function firstTimelines(streamed: readonly Streamed[]): RankTimeline[] {
  let bytes = 0;
  const timelines: RankTimeline[] = [];
  for (const { timeline } of streamed) {
    bytes += timeline.h2d.byteLength + timeline.broadcast.byteLength + timeline.reload.byteLength;
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
