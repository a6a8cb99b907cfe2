import type { CacheReset, EngineKind, PauseOption } from '../../engines/engine-client.ts';
import type { WorkersSaid } from '../../engines/workers-said.ts';
import { AbortedError, asFailure, DeadlineError, type WeightcastError } from '../../errors.ts';
import type { Held } from '../../plan/live-weights.ts';
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
import { Failures } from './failures.ts';
import type { Feeding } from './feeding.ts';

/** An instance that is updated. */
export interface UpdateTarget {
  readonly name: string;
  readonly bridge: ActorRef<BridgeMessage>;
  readonly endpoint: string;
  readonly engine: EngineKind;
  readonly ranks: readonly number[];
  /** Its weights are not those of one version, or not right: it must not be resumed before an update succeeds. */
  readonly isBroken: boolean;
  /** An earlier update has paused it, and has not resumed it. */
  readonly isPaused: boolean;
  /** An earlier update has asked it to pause in vain: that may take effect yet, and until then it counts as paused. */
  readonly mayStillPause: boolean;
  /** Its engine was restarted, or updated by someone else, since the cluster has updated it. */
  readonly hasOtherEngine: boolean;
  /** The version that it serves, as far as is known: `checkpoint@digest`. */
  readonly version: string | null;
  /** What its engine has last said that it calls its weights. */
  readonly label: string | null;
  /** How to pause it during the update; null: not at all. */
  readonly pause: PauseOption | null;
  readonly cacheReset: CacheReset;
}

/** What an update has made of an instance: it holds the new version, what it held before, or neither. */
export type InstanceOutcome = InstanceReport['outcome'];

/** Where an update notes what it does to instances, at the moment when it is so. */
export interface InstanceLedger {
  /** Nobody knows what it serves: why, as that its engine cannot be reached. */
  versionLost(name: string, why: string): void;
  /** It does not serve what it was last given, nor do its workers keep what they have said: why, as that its engine was restarted. */
  engineChanged(name: string, why: string): void;
  /** Before it is asked to pause, and after it has resumed. Throws if a later supervisor would not know that it is to be paused. */
  paused(name: string, isPaused: boolean): void;
  /**
   * It was asked to pause, and has not answered: it counts as paused until someone has found out, and is looked after for so
   * long even then, as it may pause yet.
   */
  pauseIsDue(name: string, milliseconds: number): void;
  /**
   * From here until `ended` it holds neither the old version nor the new one for certain. `epoch`: none before it has changed
   * anything. Throws if a later supervisor would not know of it.
   */
  touched(names: readonly string[], epoch: number): void;
  /** Its weights are whole and it serves, but whether it answers as it should is not known yet. */
  verifying(name: string): void;
  ended(name: string, outcome: InstanceOutcome, version: Registered['status']): void;
  /** What its engine says that it calls its weights; null if it does not say. */
  labelled(name: string, label: string | null): void;
  /** Why its draft model has other weights than its target; null if it has not, or nobody knows. */
  draftKept(name: string, why: string | null): void;
  /** Why it is broken or paused; null if it is neither. */
  explain(name: string, problem: string | null): void;
}

/** What engine workers held after updates of this cluster. */
export interface InstallLedger {
  /** Names of live tensors, by their layout. */
  layouts(): ReadonlyMap<string, readonly string[]>;
  /** What workers of a place held after an update to the version with this digest; null if there was none, or it is forgotten. */
  earlier(version: string, key: string): Held | null;
  /** `isConfirmed`: others hold the same. */
  note(version: string, held: Held, isConfirmed: boolean): void;
  /** A worker of the place holds something else: what nobody has confirmed is as likely to be wrong, and is forgotten. */
  doubt(version: string, key: string): void;
}

/** What one update installs where, and what it works with. */
export interface UpdateSpec {
  /** For messages: `updating engine-0 to step-7`. */
  readonly what: string;
  readonly checkpoint: Registered;
  readonly options: UpdateRequest;
  /** How many times each engine worker receives the checkpoint. */
  readonly exchanges: number;
  /** The ranks of the targets but those that are unfit. */
  readonly ranks: readonly ReadyRank[];
  readonly targets: readonly UpdateTarget[];
  /** An instance that serves the version already, and with whose answers theirs have to agree. */
  readonly agreeWith: Pick<UpdateTarget, 'name' | 'bridge'> | null;
  /** Targets that cannot be updated now: why. */
  readonly unfit: ReadonlyMap<UpdateTarget, WeightcastError>;
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
  readonly installs: InstallLedger;
  /** By instance, what its engine's workers have said, in this update once they have been asked, or in an earlier one. */
  readonly workers: Map<string, WorkersSaid>;
  readonly feeding: Feeding;
  /** Releases host memory that is kept for later checkpoints. Resolves with whether there was any. */
  readonly freeHostMemory: () => Promise<boolean>;
  /** What was made for the update in hosts' memory is no longer needed. */
  readonly onUnneeded: (segments: readonly Segment[]) => void;
  /** A rank has not answered in time what it answers at once, or not released what it took: it hangs. */
  readonly onUnresponsive: (rank: ReadyRank, reason: string) => void;
}

/** What the steps of an update may do of what an actor may: all but change the actor. */
export type UpdateActor = Pick<Context<never>, 'ask' | 'tell' | 'clock' | 'log'>;

/**
 * What the steps of one epoch share, and of those that plan it anew after memory pressure: which instances it is about, how
 * long they may wait, what failed, and how they release what they took.
 */
export class UpdateContext {
  readonly context: UpdateActor;
  readonly spec: UpdateSpec;
  readonly failures: Failures<UpdateTarget>;
  /** Every copy that a rank was asked to receive. */
  readonly mirrors: Segment[] = [];
  /** Layouts of live tensors whose names need not be sent. */
  readonly liveLayouts: ReadonlyMap<string, readonly string[]>;
  readonly #signal: AbortSignal;
  /** Cancels the asks that are still open once an epoch was aborted. */
  readonly #ended = new AbortController();
  /** Cancels them also when the update is aborted from outside, or a rank has ended. */
  readonly #cancelled = new AbortController();
  readonly #onAborted: () => void;
  /** Its instances, divided into those that fail alone. */
  #parts: readonly UpdateContext[] = [];
  #isReleasing = false;

  /** `failures`: those of the epoch, of which this context may be a part. */
  constructor(
    context: UpdateActor,
    spec: UpdateSpec,
    signal: AbortSignal,
    failures = new Failures<UpdateTarget>(),
  ) {
    this.context = context;
    this.spec = spec;
    this.failures = failures;
    this.liveLayouts = spec.installs.layouts();
    this.#signal = signal;
    this.#onAborted = () => this.#cancelled.abort(signal.reason);
    if (signal.aborted) this.#onAborted();
    else signal.addEventListener('abort', this.#onAborted, { once: true });
  }

  /** From here on what fails, or ends, does so for one of these parts alone. */
  divide(parts: readonly (readonly UpdateTarget[])[]): readonly UpdateContext[] {
    this.#parts = parts.map((targets) => {
      const own = new Set(targets.flatMap((target) => target.ranks));
      const ranks = this.spec.ranks.filter(({ rank }) => own.has(rank));
      return new UpdateContext(this.context, { ...this.spec, targets, ranks }, this.#signal, this.failures);
    });
    return this.#parts;
  }

  /** From here on it only releases what it took, which has deadlines of its own. */
  get isReleasing(): boolean {
    return this.#isReleasing;
  }

  /** Milliseconds until the update's deadline, at most `most` and at least 1. */
  left(most = Number.POSITIVE_INFINITY): number {
    return Math.max(1, Math.min(most, Math.ceil(this.spec.endsAt - this.context.clock.now())));
  }

  within(deadlineMilliseconds: number): AskOptions {
    return { deadlineMilliseconds, signal: this.#cancelled.signal };
  }

  /** The same for what an abort of the update from outside does not end. */
  untilEnded(deadlineMilliseconds: number): AskOptions {
    return { deadlineMilliseconds, signal: this.#ended.signal };
  }

  /** Rejects when the update is aborted from outside, or one of its ranks has ended. */
  get cancelled(): Promise<never> {
    const { signal } = this.#cancelled;
    return new Promise((_, reject) => {
      if (signal.aborted) return reject(signal.reason);
      signal.addEventListener('abort', () => reject(signal.reason), { once: true });
    });
  }

  /** Calls back once the update is aborted from outside, also if it was before. The returned function prevents that. */
  onAborted(callback: (reason: unknown) => void): () => void {
    const listener = () => callback(this.#signal.reason);
    if (this.#signal.aborted) listener();
    else this.#signal.addEventListener('abort', listener, { once: true });
    return () => this.#signal.removeEventListener('abort', listener);
  }

  /** Whether the update was aborted from outside. */
  get isAborted(): boolean {
    return this.#signal.aborted;
  }

  /** What a rank was asked; if it fails, that is noted as the rank's failure. */
  async answerOf<T>(rank: number, answer: Promise<T>): Promise<T> {
    try {
      return await answer;
    } catch (thrown) {
      // To be aborted with all others, or not to be answered any more, is no failure of its own.
      const isEcho = thrown instanceof DeadlineError || thrown instanceof AbortedError;
      const isLate = this.#isReleasing && isEcho;
      if (!isLate) this.failures.ofRank(rank, asFailure(thrown));
      throw thrown;
    }
  }

  /** A rank has ended, and so has the epoch, or the part of it that it belongs to. Other ranks do not matter. */
  rankLost(rank: number, error: WeightcastError): void {
    if (!this.spec.ranks.some((one) => one.rank === rank)) return;
    this.failures.rankLost(rank, error);
    if (this.#parts.length === 0) this.#cancelled.abort(error);
    for (const part of this.#parts) part.rankLost(rank, error);
  }

  /** Waits for all; if one fails, aborts the epoch, and rejects with the first failure after that. */
  async allOrAbort<T>(epoch: number, work: readonly Promise<T>[]): Promise<T[]> {
    try {
      return await Promise.all(work);
    } catch (thrown) {
      await this.fail(epoch, asFailure(thrown).message);
      this.end(`epoch ${epoch} was aborted`);
      await Promise.allSettled(work);
      throw thrown;
    }
  }

  /** Cancels what is still open. May be called twice. */
  end(reason: string): void {
    this.#signal.removeEventListener('abort', this.#onAborted);
    const error = new AbortedError(reason);
    this.#ended.abort(error);
    this.#cancelled.abort(error);
    for (const part of this.#parts) part.end(reason);
  }

  /** Aborts the epoch because it has failed; `abort` is for one that is planned again. */
  fail(
    epoch: number,
    reason: string,
    spared?: ReadonlySet<UpdateTarget>,
  ): Promise<ReadonlyMap<number, number>> {
    this.#isReleasing = true;
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
    const aborts = this.spec.ranks.map(async (ready) => {
      const { rank, ref } = ready;
      try {
        const answer = ask(this.context, ref, toRank.abort, { epoch, reason }, options);
        loadsOf.set(rank, (await this.orUnresponsive(ready, answer)).loads);
      } catch (thrown) {
        // One that is in a later epoch has released this one.
        if (!(thrown instanceof AbortedError)) this.failures.unresponsive(rank, asFailure(thrown));
        throw thrown;
      }
    });
    const abandoned = this.spec.targets.filter((target) => !spared.has(target));
    for (const outcome of await Promise.allSettled([...this.abandonCalls(reason, abandoned), ...aborts])) {
      if (outcome.status === 'fulfilled') continue;
      this.context.log.warn({ epoch, error: asFailure(outcome.reason).message }, 'cleanup timed out');
    }
    return loadsOf;
  }

  /** What a rank answers at once if it is well: one that misses the deadline hangs. */
  async orUnresponsive<T>(ready: ReadyRank, answer: Promise<T>): Promise<T> {
    try {
      return await answer;
    } catch (error) {
      if (error instanceof DeadlineError) this.spec.onUnresponsive(ready, error.message);
      throw error;
    }
  }

  /** Aborts the engines' HTTP requests. */
  abandonCalls(reason: string, targets = this.spec.targets): Promise<unknown>[] {
    const options = { deadlineMilliseconds: deadlines.abort };
    return targets.map(({ bridge }) => ask(this.context, bridge, toBridge.abandon, { reason }, options));
  }
}
