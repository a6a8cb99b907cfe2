import type { PauseOption } from '../../engines/engine-client.ts';
import { AbortedError, asFailure, EngineError, type WeightcastError } from '../../errors.ts';
import type { ActorRef, AskOptions, Context } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import { type BridgeMessage, toBridge } from '../protocol/bridge.ts';
import type { Registered, Segment } from '../protocol/checkpoint-values.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { PlannerMessage } from '../protocol/planner.ts';
import { toRank } from '../protocol/rank.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';
import type { SwarmMessage } from '../protocol/swarm.ts';
import type { InstanceReport, UpdateRequest } from '../protocol/update-values.ts';
import type { CommunicatorRegistry } from './communicators.ts';

/** An instance that is updated. */
export interface UpdateTarget {
  readonly name: string;
  readonly bridge: ActorRef<BridgeMessage>;
  readonly endpoint: string;
  readonly ranks: readonly number[];
  /** Its weights are not those of one version, or not right: it must not be resumed before an update succeeds. */
  readonly isBroken: boolean;
  /** An earlier update has paused it, and has not resumed it. */
  readonly isPaused: boolean;
  /** The version that it serves, as far as is known: `checkpoint@digest`. */
  readonly version: string | null;
  /** How to pause it during the update; null: not at all. */
  readonly pause: PauseOption | null;
  readonly resetCache: boolean;
}

/** What an update has made of an instance: it holds the new version, what it held before, or neither. */
export type InstanceOutcome = InstanceReport['outcome'];

/** Where an update notes what it does to instances, at the moment when it is so. */
export interface InstanceLedger {
  /** What it serves is not what it was last given: its engine was restarted, or cannot be reached. */
  versionLost(name: string): void;
  paused(name: string, isPaused: boolean): void;
  /** From here until `ended` it holds neither the old version nor the new one for certain. */
  touched(names: readonly string[]): void;
  ended(name: string, outcome: InstanceOutcome, version: Registered['status']): void;
}

/** What one update installs where, and what it works with. */
export interface UpdateSpec {
  /** For messages: `updating engine-0 to step-7`. */
  readonly what: string;
  readonly checkpoint: Registered;
  readonly options: UpdateRequest;
  /** How many times each engine worker receives the checkpoint. */
  readonly exchanges: number;
  /** The ranks of the targets. */
  readonly ranks: readonly ReadyRank[];
  readonly targets: readonly UpdateTarget[];
  readonly planner: ActorRef<PlannerMessage>;
  readonly swarm: ActorRef<SwarmMessage>;
  readonly communicators: CommunicatorRegistry;
  /** All ranks of the cluster that are ready now: any of them can be read from. */
  readonly readyRanks: () => readonly ReadyRank[];
  /** The update's deadline, by the clock of actors. */
  readonly endsAt: number;
  /** Each call returns a larger epoch than the one before. */
  readonly nextEpoch: () => number;
  readonly instances: InstanceLedger;
  /** Copies that ranks have received are no longer needed. */
  readonly onMirrorsUnused: (mirrors: readonly Segment[]) => void;
}

/** What the steps of an update may do of what an actor may: all but change the actor. */
export type UpdateActor = Pick<Context<never>, 'ask' | 'tell' | 'clock' | 'log'>;

/** What the steps of one update share: its spec, how long they may wait, and how they release what they took. */
export class UpdateContext {
  readonly context: UpdateActor;
  readonly spec: UpdateSpec;
  /** Every copy that a rank was asked to receive, in any epoch of this update. */
  readonly mirrors: Segment[] = [];
  readonly #signal: AbortSignal;
  /** Cancels the asks that are still open once an epoch was aborted. */
  readonly #ended = new AbortController();
  #hasFailed = false;

  constructor(context: UpdateActor, spec: UpdateSpec, signal: AbortSignal) {
    this.context = context;
    this.spec = spec;
    this.#signal = signal;
  }

  /** From here on it only releases what it took, which has deadlines of its own. */
  get hasFailed(): boolean {
    return this.#hasFailed;
  }

  /** Milliseconds until the update's deadline, at most `most` and at least 1. */
  left(most = Number.POSITIVE_INFINITY): number {
    return Math.max(1, Math.min(most, Math.ceil(this.spec.endsAt - this.context.clock.now())));
  }

  within(deadlineMilliseconds: number): AskOptions {
    return { deadlineMilliseconds, signal: AbortSignal.any([this.#signal, this.#ended.signal]) };
  }

  /** The same for what an abort of the update from outside does not end. */
  untilEnded(deadlineMilliseconds: number): AskOptions {
    return { deadlineMilliseconds, signal: this.#ended.signal };
  }

  /** Rejects when the update is aborted from outside. */
  get aborted(): Promise<never> {
    return new Promise((_, reject) => {
      if (this.#signal.aborted) return reject(this.#signal.reason);
      this.#signal.addEventListener('abort', () => reject(this.#signal.reason), { once: true });
    });
  }

  /** Why the update failed: whatever failed after an abort from outside failed because of that. */
  causeOf(thrown: unknown): WeightcastError {
    return this.#signal.aborted ? asFailure(this.#signal.reason) : asFailure(thrown);
  }

  /** Waits for all; if one fails, aborts the epoch, and rejects with what caused the failure after that. */
  async allOrAbort<T>(epoch: number, work: readonly Promise<T>[]): Promise<T[]> {
    try {
      return await Promise.all(work);
    } catch (thrown) {
      await this.fail(epoch, asFailure(thrown).message);
      throw await this.failureOf(epoch, thrown, work);
    }
  }

  /** Cancels what is still open of an epoch that was aborted. Resolves with what caused the failure. */
  async failureOf(
    epoch: number,
    first: unknown,
    work: readonly Promise<unknown>[],
  ): Promise<WeightcastError> {
    this.#ended.abort(new AbortedError(`epoch ${epoch} was aborted`));
    return rootCause(asFailure(first), await Promise.allSettled(work));
  }

  /** Aborts the epoch because the update has failed; without it, another epoch may follow. */
  fail(
    epoch: number,
    reason: string,
    spared?: ReadonlySet<UpdateTarget>,
  ): Promise<ReadonlyMap<number, number>> {
    this.#hasFailed = true;
    return this.abort(epoch, reason, spared);
  }

  /**
   * Has all ranks, and the bridges to all instances but those spared, release what they took for the epoch. Resolves with
   * how many buckets each rank's worker was asked to load in it; ranks that did not answer are left out. Never rejects.
   */
  async abort(
    epoch: number,
    reason: string,
    spared: ReadonlySet<UpdateTarget> = new Set(),
  ): Promise<ReadonlyMap<number, number>> {
    const options = { deadlineMilliseconds: deadlines.abort };
    const loadsOf = new Map<number, number>();
    const aborts = this.spec.ranks.map(async ({ rank, ref }) => {
      loadsOf.set(rank, (await ask(this.context, ref, toRank.abort, { epoch, reason }, options)).loads);
    });
    const abandoned = this.spec.targets.filter((target) => !spared.has(target));
    for (const outcome of await Promise.allSettled([...this.abandonCalls(reason, abandoned), ...aborts])) {
      if (outcome.status === 'fulfilled') continue;
      this.context.log.warn({ epoch, error: asFailure(outcome.reason).message }, 'cleanup timed out');
    }
    return loadsOf;
  }

  /** Aborts the engines' HTTP requests. */
  abandonCalls(reason: string, targets = this.spec.targets): Promise<unknown>[] {
    const options = { deadlineMilliseconds: deadlines.abort };
    return targets.map(({ bridge }) => ask(this.context, bridge, toBridge.abandon, { reason }, options));
  }
}

/**
 * One failure causes others: peers of a rank that failed are aborted, and engines repeat what ranks sent their workers.
 * Any of these may arrive before the cause does.
 */
function rootCause(
  first: WeightcastError,
  outcomes: readonly PromiseSettledResult<unknown>[],
): WeightcastError {
  const failures = outcomes.filter((outcome) => outcome.status === 'rejected');
  const errors = [first, ...failures.map((outcome) => asFailure(outcome.reason))];
  const causes = errors.filter((error) => !(error instanceof AbortedError));
  return causes.find((error) => !(error instanceof EngineError)) ?? causes[0] ?? first;
}
