import { asFailure, EngineError } from '../../errors.ts';
import { ask } from '../protocol/ask.ts';
import { toBridge } from '../protocol/bridge.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { Proofs } from '../protocol/update-values.ts';
import { checkAnswers, type Expectation } from './answers.ts';
import type { UpdateContext, UpdateTarget } from './context.ts';
import type { InstanceEnds } from './instance-ends.ts';
import { versionOf } from './open.ts';
import type { Pauses } from './pauses.ts';
import { answeredWords, mislabelledWords, staleWords } from './words.ts';

/** An engine gets at least this long for its caches and its label, even after the update's deadline. */
const leastMilliseconds = 5_000;

/**
 * From whole weights to an engine that serves them: drop the old weights' caches, resume, compare answers, tell the engine
 * its version, commit.
 */
export class Serving {
  readonly #update: UpdateContext;
  readonly #pauses: Pauses;
  readonly #ends: InstanceEnds;
  readonly #expectations: readonly Expectation[] | null;

  /** `expectations`: null if engines are asked nothing. */
  constructor(
    update: UpdateContext,
    pauses: Pauses,
    ends: InstanceEnds,
    expectations: readonly Expectation[] | null,
  ) {
    this.#update = update;
    this.#pauses = pauses;
    this.#ends = ends;
    this.#expectations = expectations;
  }

  /** Resolves when it is decided what becomes of the instance. Never rejects. */
  async serve(target: UpdateTarget, proofs: Proofs): Promise<void> {
    if (this.#expectations !== null) {
      await this.#resetCaches(target);
      return this.#prove(target, proofs, this.#expectations);
    }
    // At once: the engine is paused meanwhile.
    await Promise.all([this.#resetCaches(target), this.#label(target)]);
    this.#ends.updated(target, proofs);
  }

  /** A paused engine only queues what it is asked. So it serves until it has answered wrongly, which is said. */
  async #prove(target: UpdateTarget, proofs: Proofs, expectations: readonly Expectation[]): Promise<void> {
    const { context, spec } = this.#update;
    spec.instances.verifying(target.name);
    const stuck = await this.#pauses.resume(target, false);
    if (stuck !== null) return this.#ends.wrong(target, new EngineError(`it answers nothing: ${stuck}`));
    const resumedAt = context.clock.now();
    try {
      await checkAnswers(this.#update, target, expectations);
    } catch (thrown) {
      const error = asFailure(thrown);
      // If this supervisor dies now, the next one must not resume it.
      spec.instances.ended(target.name, 'broken', spec.checkpoint.status);
      // What was not answered in time would wait for ever in an engine that is paused.
      await Promise.allSettled(this.#update.abandonCalls(error.message, [target]));
      const stillRuns = await this.#pauses.pauseAgain(target);
      const seconds = (context.clock.now() - resumedAt) / 1_000;
      this.#ends.note(target, answeredWords(target, seconds, stillRuns));
      return this.#ends.wrong(target, error);
    }
    await this.#label(target);
    this.#ends.updated(target, { ...proofs, answering: 'holds' });
  }

  async #resetCaches(target: UpdateTarget): Promise<void> {
    if (target.cacheReset === 'never') return this.#ends.caches(target, 'kept');
    const { timeoutMilliseconds, ...options } = this.#limits();
    try {
      await ask(this.#update.context, target.bridge, toBridge.resetCaches, { timeoutMilliseconds }, options);
      this.#ends.caches(target, 'dropped');
    } catch (thrown) {
      this.#ends.caches(target, 'kept');
      const error = asFailure(thrown);
      if (target.cacheReset === 'always') this.#ends.note(target, staleWords(target, error));
      else this.#update.context.log.debug({ instance: target.name, error: error.message }, 'caches are kept');
    }
  }

  /** What the engine calls its weights from then on is compared, where it says. */
  async #label(target: UpdateTarget): Promise<void> {
    const { context, spec } = this.#update;
    const version = versionOf(spec.checkpoint);
    const { timeoutMilliseconds, ...options } = this.#limits();
    try {
      const question = { version, timeoutMilliseconds };
      const { said } = await ask(context, target.bridge, toBridge.label, question, options);
      if (said === version) spec.instances.labelled(target.name, said);
      else if (said !== null) this.#ends.note(target, mislabelledWords(target, version, said));
    } catch (thrown) {
      // That it has no name for its weights, or an old one, changes nothing of what they are.
      context.log.warn(
        { instance: target.name, error: asFailure(thrown).message },
        'the version is not told',
      );
    }
  }

  #limits() {
    const timeoutMilliseconds = Math.max(leastMilliseconds, this.#update.left(deadlines.engineResume));
    return { timeoutMilliseconds, deadlineMilliseconds: timeoutMilliseconds + deadlines.control };
  }
}
