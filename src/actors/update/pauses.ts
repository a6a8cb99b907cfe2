import type { PauseMode } from '../../engines/engine-client.ts';
import { asFailure, EngineError, type WeightcastError } from '../../errors.ts';
import { ask } from '../protocol/ask.ts';
import { toBridge } from '../protocol/bridge.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { UpdateContext, UpdateTarget } from './context.ts';

/** Engines get at least this long to resume, even after the update's deadline. */
const leastResumeMilliseconds = 5_000;

/** The engines that one update has paused, and those that an earlier one has left paused: they are ours to resume. */
export class Pauses {
  readonly #update: UpdateContext;
  /** Paused, or asked to. */
  readonly #paused: Set<UpdateTarget>;
  /** Asked by this update. */
  readonly #asked = new Set<UpdateTarget>();
  /** Engines that refused to pause: that they do not resume either says nothing. */
  readonly #refused = new Set<UpdateTarget>();

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
    const timeoutMilliseconds = round.left();
    const within = round.within(timeoutMilliseconds + deadlines.control);
    const pauses = round.spec.targets.flatMap((target) => {
      const { name, bridge, pause } = target;
      if (pause === null || pause === 'caller' || this.#asked.has(target)) return [];
      const mode: PauseMode = pause;
      this.#asked.add(target);
      this.#paused.add(target);
      round.spec.instances.paused(name, true);
      const paused = ask(round.context, bridge, toBridge.pause, { mode, timeoutMilliseconds }, within);
      return [
        paused.catch((error) => {
          round.failures.ofEngine(target, asFailure(error));
          if (error instanceof EngineError && !target.isPaused) this.#refused.add(target);
          throw error;
        }),
      ];
    });
    await round.allOrAbort(epoch, pauses);
  }

  isPaused(target: UpdateTarget): boolean {
    return this.#paused.has(target);
  }

  /** Also after the deadline: a paused engine serves no requests. Resolves with why it did not resume. Never rejects. */
  async resume(target: UpdateTarget): Promise<WeightcastError | null> {
    if (!this.#paused.has(target)) return null;
    const { context, spec } = this.#update;
    const timeoutMilliseconds = Math.max(leastResumeMilliseconds, this.#update.left(deadlines.engineResume));
    const options = { deadlineMilliseconds: timeoutMilliseconds + deadlines.control };
    try {
      await ask(context, target.bridge, toBridge.resume, { timeoutMilliseconds }, options);
    } catch (thrown) {
      if (!this.#refused.has(target)) return asFailure(thrown);
    }
    this.#paused.delete(target);
    spec.instances.paused(target.name, false);
    return null;
  }
}
