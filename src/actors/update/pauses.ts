import type { PauseMode } from '../../engines/engine-client.ts';
import { asFailure, EngineError, type WeightcastError } from '../../errors.ts';
import type { AskOptions } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import { toBridge } from '../protocol/bridge.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { UpdateContext, UpdateTarget } from './context.ts';
import { saysPaused } from './engine-states.ts';
import { dueWords, resumingWords } from './words.ts';

/** Engines get at least this long to resume, even after the update's deadline. */
const leastResumeMilliseconds = 5_000;

/** Between two questions about its state. */
const pollMilliseconds = 500;

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
  readonly #doubtful = new Set<UpdateTarget>();
  /** Of these, those whose answer is still due: the pause may take effect after everything that is asked of them now. */
  readonly #due = new Set<UpdateTarget>();

  constructor(update: UpdateContext) {
    this.#update = update;
    this.#paused = new Set(
      update.spec.targets.filter(({ isPaused, pause }) => isPaused && pause !== 'caller'),
    );
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
    // Others wait for half of the time that is left.
    const share = round.spec.targets.length === 1 ? 1 : 2;
    const timeoutMilliseconds = Math.ceil(round.left() / share);
    const within = round.within(timeoutMilliseconds + deadlines.control);
    const pauses = round.spec.targets.flatMap((target) => {
      const { pause } = target;
      if (pause === null || pause === 'caller' || this.#isFresh(target)) return [];
      const mode: PauseMode = pause;
      return [this.#askPause(round, target, { mode, timeoutMilliseconds }, within)];
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

  async #askPause(
    round: UpdateContext,
    target: UpdateTarget,
    question: { readonly mode: PauseMode; readonly timeoutMilliseconds: number },
    within: AskOptions,
  ): Promise<void> {
    try {
      // Before it is: a later supervisor has to know of it.
      round.spec.instances.paused(target.name, true);
    } catch (thrown) {
      round.failures.ofEngine(target, asFailure(thrown));
      throw thrown;
    }
    this.#paused.add(target);
    try {
      await ask(round.context, target.bridge, toBridge.pause, question, within);
    } catch (thrown) {
      const error = asFailure(thrown);
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
   * certain. Never rejects.
   */
  async resume(target: UpdateTarget): Promise<string | null> {
    if (!this.#paused.has(target)) return null;
    const error = await this.#askResume(target);
    // It has refused to pause, and then has nothing to resume.
    const isRunning = error !== null && this.#doubtful.has(target) && (await this.#says(target)) === false;
    if (error !== null && !isRunning) return resumingWords(target, error);
    if (this.#doubtful.has(target)) {
      const words = await this.#resumeLate(target);
      if (words !== null) return words;
    }
    this.#paused.delete(target);
    this.#update.spec.instances.paused(target.name, false);
    return null;
  }

  #says({ bridge }: UpdateTarget): Promise<boolean | null> {
    return saysPaused(this.#update.context, bridge);
  }

  async #askResume(target: UpdateTarget): Promise<WeightcastError | null> {
    const timeoutMilliseconds = Math.max(leastResumeMilliseconds, this.#update.left(deadlines.resumeTry));
    const options = { deadlineMilliseconds: timeoutMilliseconds + deadlines.control };
    try {
      await ask(this.#update.context, target.bridge, toBridge.resume, { timeoutMilliseconds }, options);
      return null;
    } catch (thrown) {
      return asFailure(thrown);
    }
  }

  /** Resumes an engine once more if it pauses after it was resumed. Waits for that while its answer is due, but not long. */
  async #resumeLate(target: UpdateTarget): Promise<string | null> {
    const { clock } = this.#update.context;
    const end = clock.now() + (this.#due.has(target) ? leastResumeMilliseconds : 0);
    for (;;) {
      const isPaused = await this.#says(target);
      if (isPaused === true) {
        const error = await this.#askResume(target);
        return error && resumingWords(target, error);
      }
      if (clock.now() >= end) return this.#due.has(target) ? dueWords(target) : null;
      await new Promise<void>((resolve) => clock.after(pollMilliseconds, resolve));
    }
  }
}
