import {
  asFailure,
  CheckpointError,
  DeadlineError,
  OutOfHostMemoryError,
  PartsRefusedError,
  PeerLostError,
  type WeightcastError,
} from '../../errors.ts';
import type { Copy } from '../../plan/reception.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { UpdateReport } from '../protocol/update-values.ts';
import { expectationsOf } from './answers.ts';
import { type UpdateActor, UpdateContext, type UpdateSpec, type UpdateTarget } from './context.ts';
import { awaitEngines } from './engine-states.ts';
import { InstanceEnds } from './instance-ends.ts';
import { Pauses } from './pauses.ts';
import { type PlannedEpoch, planEpoch } from './plan-epoch.ts';
import { reportOf } from './report.ts';
import { type Installed, Round } from './round.ts';
import { Serving } from './serving.ts';

export interface UpdateOutcome {
  readonly report: UpdateReport;
  /** What hosts have received from other hosts, and keep. */
  readonly copies: readonly Copy[];
}

/** How a rank has ended. */
export interface RankLoss {
  readonly reason: string;
  /** Its process is started again. */
  readonly returns: boolean;
  /** Why it is not. */
  readonly error?: WeightcastError | undefined;
}

/**
 * Engines that take longer to report ready may have allocated device memory while starting, which makes an earlier plan
 * stale. Shorter than the interval between two requests to an engine's health route.
 */
const readyMilliseconds = 100;

const readiness = 'engines to be ready';

/** A step that reaches the update's deadline reports it in better words, if it gets this long to do so. */
const graceMilliseconds = 500;

/**
 * One update, in order: prepare, plan, open, pause, stream, verify, resume, compare answers. When it fails, the instances
 * that caused that end as they are, and the others go on in another round.
 *
 * It notes in the ledger of instances what each of them holds; the other ledgers are the supervisor's, which commits what it
 * resolves with. It rejects if no instance is updated. When it has ended, every rank that could be reached has released what
 * it took, and every engine that it paused is resumed unless it is broken, or has not answered: then it counts as updated all
 * the same, and is tried to be resumed after that.
 */
export class Update {
  readonly #update: UpdateContext;
  readonly #context: UpdateActor;
  readonly #abort: AbortController;
  readonly #pauses: Pauses;
  readonly #ends: InstanceEnds;
  readonly #installed: Installed[] = [];
  readonly #copies: Copy[] = [];
  /** Instances that have lost a rank since the update began: its next process takes no part. */
  readonly #lost = new Map<UpdateTarget, WeightcastError>();
  /** Ranks that have died since the update began and are started again: the host memory that they fed is still there. */
  readonly #returning = new Set<number>();
  /** Rounds that wait for one of these. */
  readonly #onReturn = new Set<() => void>();
  /** What it waits for before its first round. */
  #firstStep = 'the instance that others are to agree with';
  /** Null until it is known what engines have to answer. */
  #serving: Serving | null = null;
  /** Those that run: where a failure touches only some instances, these go on in another one beside the others. */
  readonly #rounds = new Set<{ readonly round: Round; readonly update: UpdateContext }>();
  #hasBegun = false;
  /** Those whose engines are still waited for, when others have begun. */
  readonly #awaited = new Set<UpdateTarget>();

  /** `abort` aborts the update, from outside or at its deadline. */
  constructor(context: UpdateActor, spec: UpdateSpec, abort: AbortController) {
    this.#context = context;
    this.#update = new UpdateContext(context, spec, abort.signal);
    this.#pauses = new Pauses(this.#update);
    this.#ends = new InstanceEnds(this.#update, this.#pauses);
    this.#abort = abort;
  }

  /** If it was read from, another rank of its host is, where there is one. */
  rankLost(rank: number, { reason, returns, error }: RankLoss): void {
    if (returns) this.#returning.add(rank);
    const target = this.#ends.left.find(({ ranks }) => ranks.includes(rank));
    // It may be a source of others, whatever becomes of its own instance.
    for (const { round } of this.#rounds) round.sources.lost(rank, reason, returns);
    if (target === undefined) return;
    const lost = error ?? new PeerLostError(`rank ${rank} died (${reason}) while ${this.#update.spec.what}`);
    this.#lost.set(target, lost);
    for (const { update } of this.#rounds) update.rankLost(rank, lost);
    if (this.#hasBegun && !this.#awaited.has(target)) return;
    this.#endWaiting(target, lost);
  }

  /** For its engine, which is asked whether it is ready. */
  #endWaiting(target: UpdateTarget, error: WeightcastError): void {
    this.#ends.failed(target, error);
    for (const abandoned of this.#update.abandonCalls(error.message, [target])) abandoned.catch(() => {});
  }

  /** A rank is ready to be read from. */
  rankReady(rank: number): void {
    if (this.#returning.delete(rank)) for (const onReturn of this.#onReturn) onReturn();
    if (this.#ends.left.some(({ ranks }) => ranks.includes(rank))) return;
    for (const { round } of this.#rounds) round.sources.ready(rank);
  }

  async run(): Promise<UpdateOutcome> {
    const { context, spec } = this.#update;
    const startedAt = context.clock.now();
    const cancelDeadline = this.#startDeadline();
    try {
      this.#serving = new Serving(this.#update, this.#pauses, this.#ends, await expectationsOf(this.#update));
      for (const [target, error] of spec.unfit) this.#ends.failed(target, error);
      await this.#installInReady();
    } finally {
      cancelDeadline();
      await this.#ends.settled();
      this.#update.end('the update is over');
    }
    const { someFailed, allFailed } = this.#ends;
    if (allFailed || (someFailed && spec.options.atomic)) {
      spec.onUnneeded(this.#copies);
      throw this.#ends.failure(spec.what, this.#causeOfEnd());
    }
    const seconds = (context.clock.now() - startedAt) / 1000;
    const report = reportOf(spec, this.#installed, { seconds, instances: this.#ends.reports() });
    return { report, copies: this.#copies };
  }

  /** Why the whole update was ended; null if it was not. */
  #causeOfEnd(): WeightcastError | null {
    return this.#update.isAborted ? asFailure(this.#abort.signal.reason) : null;
  }

  /** Steps have deadlines of their own; this one is for what has none. */
  #startDeadline(): () => void {
    const { context } = this.#update;
    return context.clock.after(this.#update.left() + graceMilliseconds, () => {
      const steps = [...this.#rounds].map(({ round }) => round.step);
      const step = this.#hasBegun ? (steps.find((one) => one !== null) ?? null) : this.#firstStep;
      if (step !== null) return this.#abort.abort(this.#lateError(`waiting for ${step}`));
      // Others have nothing left but what has deadlines of its own.
      for (const target of this.#awaited)
        this.#endWaiting(target, this.#lateError(`waiting for ${readiness}`));
    });
  }

  #lateError(when: string): DeadlineError {
    const { what, options } = this.#update.spec;
    return new DeadlineError(`${what} took longer than ${options.timeoutMilliseconds} ms, ${when}`);
  }

  /**
   * Plans while engines are asked whether they are ready; null if that was in vain. Ranks allocate nothing before all
   * engines are.
   */
  async #installInReady(): Promise<void> {
    const { clock } = this.#context;
    this.#firstStep = readiness;
    // Its failure counts only if it fails again.
    const planning = planEpoch(this.#update).catch(() => null);
    const waited = this.#waiting();
    const askedAt = clock.now();
    const { left } = this.#ends;
    const onUnfit = (target: UpdateTarget, error: WeightcastError) =>
      this.#ends.failed(target, this.#causeOfEnd() ?? error);
    const late = await awaitEngines(this.#update, left, onUnfit);
    for (const target of late.keys()) this.#awaited.add(target);
    this.#firstStep = 'ranks to prepare';
    const isStale = clock.now() - askedAt > readyMilliseconds || this.#ends.left.length < left.length;
    const planned = await planning;
    const { feeding } = this.#update.spec;
    const areOthers = planned?.recorded.some(({ name }) => feeding.demandsWhole(name) !== null) ?? false;
    // What engine workers need of device memory may only be known since.
    const isOther = late.size > 0 || isStale || areOthers || waited !== this.#waiting();
    this.#hasBegun = true;
    const together = this.#update.spec.targets.filter((target) => !late.has(target));
    const apart = [...late].map(([target, ready]) => this.#installLate(target, ready));
    await Promise.all([this.#install(together, isOther ? null : planned), ...apart]);
  }

  /** Beside the others, which go on without it. */
  async #installLate(target: UpdateTarget, ready: Promise<void>): Promise<void> {
    await ready;
    this.#awaited.delete(target);
    await this.#install([target], null);
  }

  /** What is known of what engine workers keep of layers that are not whole. */
  #waiting(): string {
    const { targets, workers } = this.#update.spec;
    return JSON.stringify(targets.map(({ name }) => workers.get(name)?.waiting ?? null));
  }

  /** In rounds, until all of these have ended. */
  async #install(targets: readonly UpdateTarget[], planned: PlannedEpoch | null): Promise<void> {
    let next = planned;
    while (this.#leftOf(targets).length > 0) {
      await this.#next(targets, next);
      next = null;
    }
  }

  #leftOf(targets: readonly UpdateTarget[]): UpdateTarget[] {
    return this.#ends.left.filter((target) => targets.includes(target));
  }

  /** A round over those of the instances that are left. At least one of them ends in it, or host memory is freed. */
  async #next(wanted: readonly UpdateTarget[], planned: PlannedEpoch | null): Promise<void> {
    for (const [target, error] of this.#lost) this.#ends.failed(target, error);
    const targets = this.#leftOf(wanted);
    if (targets.length === 0) return;
    if (this.#update.isAborted) return this.#failAll(targets, asFailure(this.#abort.signal.reason));
    if (this.#context.clock.now() >= this.#update.spec.endsAt) {
      const when = this.#ends.someFailed ? 'after other instances had failed' : `waiting for ${readiness}`;
      return this.#failAll(targets, this.#lateError(when));
    }
    const { spec } = this.#update;
    const own = new Set(targets.flatMap(({ ranks }) => ranks));
    const ranks = spec.ranks.filter(({ rank }) => own.has(rank));
    const update = new UpdateContext(this.#context, { ...spec, targets, ranks }, this.#abort.signal);
    const round = new Round(update, this.#pauses, this.#ends, this.#serving!);
    const running = { round, update };
    this.#rounds.add(running);
    let isComplete = false;
    try {
      // A plan for ranks that take no part any more would have them open what nobody aborts.
      await round.run(ranks.length === spec.ranks.length ? planned : null, async (part, error) => {
        await this.#failed(part, error);
        await this.#install(part.spec.targets, null);
      });
      isComplete =
        this.#ends.updatedTargets.filter((target) => targets.includes(target)).length === targets.length;
    } catch (thrown) {
      await this.#failed(update, asFailure(thrown));
    }
    this.#rounds.delete(running);
    const installed = round.end(this.#ends.updatedTargets, isComplete);
    if (installed === null) return;
    this.#installed.push(installed);
    this.#copies.push(...installed.copies);
  }

  /** Ends the instances that a round, or a part of it, failed for; all of its that are left, if none is to blame. */
  async #failed(update: UpdateContext, error: WeightcastError): Promise<void> {
    const left = this.#leftOf(update.spec.targets);
    if (update.isAborted) return this.#failAll(left, asFailure(this.#abort.signal.reason));
    const outOfHostMemory = error instanceof OutOfHostMemoryError || update.failures.outOfHostMemory;
    if (outOfHostMemory && (await update.spec.freeHostMemory())) return;
    const blamed = update.failures.blamed(left);
    if (blamed.size === 0) {
      // No rank is there to read some bytes from now.
      if (error instanceof CheckpointError && this.#returning.size > 0) return this.#rankReturns();
      return this.#failAll(left, error);
    }
    for (const [target, cause] of blamed)
      if (!this.#goesOnWhole(target, cause)) this.#ends.failed(target, cause);
  }

  /** Its engine workers are others than those that the parts were cut for, and have loaded nothing of them. */
  #goesOnWhole(target: UpdateTarget, cause: WeightcastError): boolean {
    const { feeding } = this.#update.spec;
    if (!(cause instanceof PartsRefusedError) || this.#ends.hasLoaded(target)) return false;
    feeding.demandWhole(target.name, cause.message);
    return true;
  }

  /** Resolves when a rank is back, or too late for that. */
  #rankReturns(): Promise<void> {
    const { context, cancelled } = this.#update;
    return new Promise((resolve) => {
      const giveUp = () => {
        this.#returning.clear();
        onReturn();
      };
      const cancel = context.clock.after(this.#update.left(deadlines.start), giveUp);
      const onReturn = () => {
        this.#onReturn.delete(onReturn);
        cancel();
        resolve();
      };
      this.#onReturn.add(onReturn);
      cancelled.catch(giveUp);
    });
  }

  #failAll(targets: readonly UpdateTarget[], error: WeightcastError): void {
    for (const target of targets) this.#ends.failed(target, error);
  }
}
