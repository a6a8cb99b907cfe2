import type { PauseMode } from '../../engines/engine-client.ts';
import { asFailure, EngineError, type WeightcastError } from '../../errors.ts';
import { ask } from '../protocol/ask.ts';
import { toBridge } from '../protocol/bridge.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { UpdateContext, UpdateTarget } from './context.ts';
import { saysPaused } from './engine-states.ts';
import { stepTimeoutOf } from './step-timeout.ts';
import { dueWords, lateForStep, resumingWords } from './words.ts';

/** Engines get at least this long to resume, even after the update's deadline. */
const leastResumeMilliseconds = 5_000;
/** One whose instance has failed keeps nobody waiting for longer, unless they say so: the cluster goes on trying to resume it. */
const failedResumeMilliseconds = 750;

/** An engine that was paused longer ago may have been restarted meanwhile, and is paused again: that changes nothing if not. */
const freshMilliseconds = 1_000;

/** The engines that one update has paused, and those that an earlier one has left paused: they are ours to resume. */
export class Pauses {
  readonly #update: UpdateContext;
  /** Paused, or asked to. */
  readonly #paused: Set<UpdateTarget>;
  /** Those that have answered to this update that they are paused, and when. */
  readonly #confirmed = new Map<UpdateTarget, number>();
  /** Those that did not answer that they are paused: they may be all the same, through a proxy that gave up. */
  readonly #doubtful: Set<UpdateTarget>;
  /**
   * Of these, those whose answer is still due, to this update or to the one before: the pause may take effect after
   * everything that is asked of them now.
   */
  readonly #due: Set<UpdateTarget>;
  /** Those that this update has asked to pause. */
  readonly #asked = new Set<UpdateTarget>();

  constructor(update: UpdateContext) {
    this.#update = update;
    this.#paused = new Set(
      update.spec.targets.filter(
        ({ isPaused, mayStillPause, pause }) => (isPaused || mayStillPause) && pause !== 'caller',
      ),
    );
    this.#due = new Set([...this.#paused].filter(({ mayStillPause }) => mayStillPause));
    this.#doubtful = new Set(this.#due);
  }

  /**
   * From here until they are resumed the engines of an epoch generate nothing; those that an earlier epoch has paused do not
   * yet. Rejects if one cannot be paused.
   */
  async pause(round: UpdateContext, epoch: number): Promise<void> {
    await this.#pauseStale(round, epoch);
    // Some may have waited long for others.
    await this.#pauseStale(round, epoch);
  }

  async #pauseStale(round: UpdateContext, epoch: number): Promise<void> {
    const pauses = round.spec.targets.flatMap((target) => {
      const { pause } = target;
      if (pause === null || pause === 'caller' || this.#isFresh(target)) return [];
      return [this.#askPause(round, target, pause)];
    });
    await round.allOrAbort(epoch, pauses);
  }

  #isFresh(target: UpdateTarget): boolean {
    const confirmedAt = this.#confirmed.get(target) ?? Number.NEGATIVE_INFINITY;
    return this.#update.context.clock.now() - confirmedAt <= freshMilliseconds;
  }

  /**
   * Pauses an engine whose weights have turned out to be wrong. What it computes with them is of no use, so that requests
   * are ended. Resolves with why it could not be paused; null if it is.
   */
  async pauseAgain(target: UpdateTarget): Promise<WeightcastError | null> {
    const { context, spec } = this.#update;
    const timeoutMilliseconds = Math.max(leastResumeMilliseconds, this.#update.left(deadlines.resumeTry));
    const options = { deadlineMilliseconds: timeoutMilliseconds + deadlines.control };
    const question = { mode: 'abort', timeoutMilliseconds } as const;
    try {
      spec.instances.paused(target.name, true);
    } catch (thrown) {
      return asFailure(thrown);
    }
    try {
      await ask(context, target.bridge, toBridge.pause, question, options);
    } catch (thrown) {
      spec.instances.paused(target.name, false);
      return asFailure(thrown);
    }
    this.#paused.add(target);
    return null;
  }

  async #askPause(round: UpdateContext, target: UpdateTarget, mode: PauseMode): Promise<void> {
    // Others wait for half of the time that is left.
    const share = Math.ceil(round.left() / (round.spec.targets.length === 1 ? 1 : 2));
    // Its workers end what they do; only with `wait` they end what they have been asked for.
    const most = mode === 'wait' ? share : stepTimeoutOf(round);
    const timeoutMilliseconds = Math.min(share, most);
    const within = round.within(timeoutMilliseconds + deadlines.control);
    try {
      // Before it is: a later supervisor has to know of it.
      round.spec.instances.paused(target.name, true);
    } catch (thrown) {
      round.failures.ofEngine(target, asFailure(thrown));
      throw thrown;
    }
    this.#paused.add(target);
    this.#asked.add(target);
    try {
      await ask(round.context, target.bridge, toBridge.pause, { mode, timeoutMilliseconds }, within);
    } catch (thrown) {
      const error = lateForStep(asFailure(thrown), most < share);
      round.failures.ofEngine(target, error);
      this.#doubtful.add(target);
      if (!(error instanceof EngineError)) this.#due.add(target);
      throw error;
    }
    this.#confirmed.set(target, round.context.clock.now());
    this.#doubtful.delete(target);
    this.#due.delete(target);
  }

  isPaused(target: UpdateTarget): boolean {
    return this.#paused.has(target);
  }

  /**
   * Also after the deadline: a paused engine serves no requests. Resolves with words about one that is not resumed for
   * certain, which counts as paused, and is looked after for as long as the cluster runs. `hasFailed`: its instance is not
   * updated. Never rejects.
   */
  async resume(target: UpdateTarget, hasFailed: boolean): Promise<string | null> {
    if (!this.#paused.has(target)) return null;
    const error = await this.#askResume(target, hasFailed);
    if (this.#due.has(target)) {
      if (!this.#asked.has(target) && !target.isPaused) {
        // It was found to run, and is looked after for as long as the update that has asked it to pause said.
        this.#paused.delete(target);
        return null;
      }
      const { instances, options } = this.#update.spec;
      if (this.#asked.has(target)) instances.pauseIsDue(target.name, options.timeoutMilliseconds);
      return dueWords(target);
    }
    if (this.#doubtful.has(target)) {
      const isPaused = await this.#says(target);
      // It has refused to pause, and then has nothing to resume.
      if (error !== null && isPaused !== false) return resumingWords(target, error);
      const again = isPaused === true ? await this.#askResume(target, hasFailed) : null;
      if (again !== null) return resumingWords(target, again);
    } else if (error !== null) return resumingWords(target, error);
    this.#paused.delete(target);
    this.#update.spec.instances.paused(target.name, false);
    return null;
  }

  #says({ bridge }: UpdateTarget): Promise<boolean | null> {
    const { resumeTimeoutMilliseconds = deadlines.engineState } = this.#update.spec.options;
    return saysPaused(this.#update.context, bridge, resumeTimeoutMilliseconds);
  }

  async #askResume(target: UpdateTarget, hasFailed: boolean): Promise<WeightcastError | null> {
    const timeoutMilliseconds = this.#resumeMilliseconds(hasFailed);
    const options = { deadlineMilliseconds: timeoutMilliseconds + deadlines.control };
    try {
      await ask(this.#update.context, target.bridge, toBridge.resume, { timeoutMilliseconds }, options);
      return null;
    } catch (thrown) {
      return asFailure(thrown);
    }
  }

  #resumeMilliseconds(hasFailed: boolean): number {
    const usual = Math.max(leastResumeMilliseconds, this.#update.left(deadlines.resumeTry));
    const { stepTimeoutMilliseconds: step = usual, resumeTimeoutMilliseconds } = this.#update.spec.options;
    return resumeTimeoutMilliseconds ?? Math.min(usual, step, hasFailed ? failedResumeMilliseconds : usual);
  }
}
