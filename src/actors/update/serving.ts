import { asFailure, type WeightcastError } from '../../errors.ts';
import { ask } from '../protocol/ask.ts';
import { toBridge } from '../protocol/bridge.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { Proofs } from '../protocol/update-values.ts';
import { checkAnswers, type Expectation } from './answers.ts';
import type { InstanceOutcome, UpdateContext, UpdateTarget } from './context.ts';
import type { Installation } from './install.ts';
import { versionOf } from './open.ts';
import type { FailedResume, Pauses } from './pauses.ts';
import { answeredWords, mislabelledWords, staleWords } from './words.ts';

/** An engine gets at least this long for its caches and its label, even after the update's deadline. */
const leastMilliseconds = 5_000;

/** What became of the instances once they were to serve. */
export interface Served extends Installation {
  readonly stuck: readonly FailedResume[];
  /** What else there is to say of instances. */
  readonly notes: readonly string[];
}

/**
 * From whole weights to an engine that serves them: drop the old weights' caches, resume, compare answers, tell the engine
 * its version, commit. Each instance for itself, and after all of them are installed. Never rejects.
 */
export class Serving {
  readonly #update: UpdateContext;
  readonly #pauses: Pauses;
  readonly #expectations: readonly Expectation[] | null;
  readonly #outcomes: Map<UpdateTarget, InstanceOutcome>;
  readonly #proofs: Map<UpdateTarget, Proofs>;
  readonly #stuck: FailedResume[] = [];
  readonly #notes: string[] = [];
  #failure: WeightcastError | null;

  constructor(
    update: UpdateContext,
    pauses: Pauses,
    { outcomes, proofs, failure }: Installation,
    expectations: readonly Expectation[] | null,
  ) {
    this.#update = update;
    this.#pauses = pauses;
    this.#expectations = expectations;
    this.#outcomes = new Map(outcomes);
    this.#proofs = new Map(proofs);
    this.#failure = failure;
  }

  async run({ streamed }: Pick<Installation, 'streamed'>): Promise<Served> {
    await Promise.all([...this.#outcomes].map(([target, outcome]) => this.#serve(target, outcome)));
    return {
      outcomes: this.#outcomes,
      proofs: this.#proofs,
      streamed,
      failure: this.#failure,
      stuck: this.#stuck,
      notes: this.#notes,
    };
  }

  async #serve(target: UpdateTarget, outcome: InstanceOutcome): Promise<void> {
    if (outcome === 'updated') {
      await this.#resetCaches(target);
      if (this.#expectations !== null) return this.#prove(target, this.#expectations);
      await this.#label(target);
    }
    this.#ended(target, outcome);
    const isWhole = outcome === 'updated' || (outcome === 'unchanged' && !target.isBroken);
    if (isWhole) this.#stuck.push(...(await this.#pauses.resume([target])));
  }

  /** A paused engine only queues what it is asked. So it serves until it has answered wrongly, which is said. */
  async #prove(target: UpdateTarget, expectations: readonly Expectation[]): Promise<void> {
    const { context, spec } = this.#update;
    spec.instances.verifying(target.name);
    const resumedAt = context.clock.now();
    const [stuck] = await this.#pauses.resume([target]);
    if (stuck !== undefined) return this.#disproved(target, stuck.error);
    try {
      await checkAnswers(this.#update, target, expectations);
    } catch (thrown) {
      // What was not answered in time would wait for ever in an engine that is paused.
      await Promise.allSettled(this.#update.abandonCalls(asFailure(thrown).message, [target]));
      const stillRuns = await this.#pauses.pauseAgain(target);
      const seconds = (context.clock.now() - resumedAt) / 1_000;
      this.#notes.push(answeredWords(target, seconds, stillRuns));
      return this.#disproved(target, asFailure(thrown));
    }
    this.#proofs.set(target, { ...this.#proofs.get(target)!, answering: 'holds' });
    await this.#label(target);
    this.#ended(target, 'updated');
  }

  #disproved(target: UpdateTarget, error: WeightcastError): void {
    this.#outcomes.set(target, 'broken');
    this.#ended(target, 'broken');
    this.#failure ??= error;
  }

  #ended({ name }: UpdateTarget, outcome: InstanceOutcome): void {
    const { instances, checkpoint } = this.#update.spec;
    instances.ended(name, outcome, checkpoint.status);
  }

  async #resetCaches(target: UpdateTarget): Promise<void> {
    if (!target.resetCache) return;
    const { timeoutMilliseconds, ...options } = this.#limits();
    try {
      await ask(this.#update.context, target.bridge, toBridge.resetCaches, { timeoutMilliseconds }, options);
    } catch (thrown) {
      this.#notes.push(staleWords(target, asFailure(thrown)));
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
      if (said !== null && said !== version) this.#notes.push(mislabelledWords(target, version, said));
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
