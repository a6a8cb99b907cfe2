import { asFailure, DeadlineError, type WeightcastError } from '../../errors.ts';
import type { Copy } from '../../plan/reception.ts';
import { LeasedSources } from '../join/leased-sources.ts';
import type { InstanceReport, UpdateReport } from '../protocol/update-values.ts';
import { type UpdateActor, UpdateContext, type UpdateSpec } from './context.ts';
import { awaitEngines } from './engine-states.ts';
import { type Installation, Installing } from './install.ts';
import { type OpenEpoch, openEpoch, planEpoch } from './open.ts';
import { type FailedResume, Pauses } from './pauses.ts';
import { reportOf } from './report.ts';
import { brokenWords, explained, stuckError, stuckWords } from './words.ts';

export interface UpdateOutcome {
  readonly report: UpdateReport;
  /** What hosts have received from other hosts, and keep. */
  readonly copies: readonly Copy[];
  /** All instances hold the new version, but some are still paused; null if none is. */
  readonly stuck: WeightcastError | null;
}

type UpdateEnd = Installation & { readonly stuck: readonly FailedResume[] };

/**
 * Engines that take longer to report ready may have allocated device memory while starting, which makes an earlier plan
 * stale. Shorter than the interval between two requests to an engine's health route.
 */
const readyMilliseconds = 100;

/** A step that reaches the update's deadline reports it in better words, if it gets this long to do so. */
const graceMilliseconds = 500;

/**
 * One update, in order: prepare, plan, open, pause, stream, verify, resume. It notes in the ledger of instances what each
 * of them holds; the other ledgers are the supervisor's, which commits what it resolves with. When it rejects, every rank
 * that could be reached has released what it took, and every engine that it paused is resumed unless it is broken.
 */
export class Update {
  readonly #update: UpdateContext;
  readonly #sources: LeasedSources;
  readonly #abort: AbortController;
  readonly #pauses: Pauses;
  /** For timeout messages; null during cleanup, which must not time out. */
  #currentStep: string | null = null;

  /** `abort` aborts the update, from outside or at its deadline. */
  constructor(context: UpdateActor, spec: UpdateSpec, abort: AbortController) {
    this.#update = new UpdateContext(context, spec, abort.signal);
    this.#sources = new LeasedSources(this.#update);
    this.#pauses = new Pauses(this.#update);
    this.#abort = abort;
  }

  /** A rank has ended. If it was read from, another one of its host is, where there is one. */
  rankLost(rank: number, reason: string, returns: boolean): void {
    if (!this.#takesPart(rank)) this.#sources.lost(rank, reason, returns);
  }

  /** A rank is ready to be read from. */
  rankReady(rank: number): void {
    if (!this.#takesPart(rank)) this.#sources.ready(rank);
  }

  async run(): Promise<UpdateOutcome> {
    const { context, spec, mirrors } = this.#update;
    const startedAt = context.clock.now();
    const cancelDeadline = this.#startDeadline();
    try {
      const epoch = await this.#open();
      this.#currentStep = 'engines to pause';
      await this.#pauseEngines(epoch);
      this.#currentStep = 'engines to install it';
      const installed = await this.#install(epoch);
      const { streamed, failure, outcomes, stuck } = installed;
      if (failure !== null) throw this.#explain(failure, { outcomes, stuck });
      this.#sources.release(spec.options.keepCopy);
      const seconds = (context.clock.now() - startedAt) / 1000;
      const report = reportOf(spec, epoch, streamed, {
        seconds,
        instances: this.#instances(installed, seconds),
      });
      return { report, copies: this.#keepMirrors(epoch), stuck: stuckError(spec.what, stuck) };
    } catch (error) {
      this.#sources.release(false);
      spec.onMirrorsUnused(mirrors);
      throw error;
    } finally {
      cancelDeadline();
    }
  }

  #takesPart(rank: number): boolean {
    return this.#update.spec.ranks.some((one) => one.rank === rank);
  }

  /** Steps have deadlines of their own; this one is for what has none. */
  #startDeadline(): () => void {
    const { context, spec } = this.#update;
    return context.clock.after(this.#update.left() + graceMilliseconds, () => {
      if (this.#currentStep === null || this.#update.hasFailed) return;
      const { timeoutMilliseconds } = spec.options;
      const waiting = `waiting for ${this.#currentStep}`;
      this.#abort.abort(
        new DeadlineError(`${spec.what} took longer than ${timeoutMilliseconds} ms, ${waiting}`),
      );
    });
  }

  // ── prepare, plan, open ──────────────────────────────────────────────────────────────────────────────────────

  /** Plans while engines are asked whether they are ready. Ranks allocate nothing before all engines are. */
  async #open(): Promise<OpenEpoch> {
    const { clock } = this.#update.context;
    this.#currentStep = 'engines to be ready';
    const planning = planEpoch(this.#update);
    // Its failure counts only if engines were ready all the time.
    planning.catch(() => {});
    const askedAt = clock.now();
    try {
      await awaitEngines(this.#update);
    } catch (thrown) {
      await Promise.allSettled([...this.#update.abandonCalls(asFailure(thrown).message), planning]);
      throw thrown;
    }
    this.#currentStep = 'ranks to prepare';
    if (clock.now() - askedAt <= readyMilliseconds) {
      return openEpoch(this.#update, this.#sources, await planning);
    }
    await Promise.allSettled([planning]);
    return openEpoch(this.#update, this.#sources, null);
  }

  // ── pause, install, resume ───────────────────────────────────────────────────────────────────────────────────

  /** If one engine cannot be paused, all of them resume but those that are broken. */
  async #pauseEngines({ epoch }: OpenEpoch): Promise<void> {
    try {
      await this.#pauses.pause(epoch);
    } catch (thrown) {
      const stuck = await this.#pauses.resume(this.#update.spec.targets.filter(({ isBroken }) => !isBroken));
      const paused = this.#update.spec.targets.filter((one) => one.isBroken && this.#pauses.isPaused(one));
      const words = paused.map((target) => brokenWords(target, true));
      throw explained(this.#update.causeOf(thrown), [...words, ...stuck.map(stuckWords)]);
    }
  }

  /** Notes what became of each instance before it resumes those that are whole. */
  async #install(epoch: OpenEpoch): Promise<UpdateEnd> {
    const { targets, instances, checkpoint } = this.#update.spec;
    instances.touched(targets.map(({ name }) => name));
    const installation = await new Installing(this.#update, epoch).run(() => {
      this.#currentStep = null;
    });
    const { outcomes } = installation;
    for (const [{ name }, outcome] of outcomes) instances.ended(name, outcome, checkpoint.status);
    const whole = targets.filter((target) => {
      const outcome = outcomes.get(target)!;
      return outcome === 'updated' || (outcome === 'unchanged' && !target.isBroken);
    });
    return { ...installation, stuck: await this.#pauses.resume(whole) };
  }

  /** The failure of an update, and the state that it has left instances in. */
  #explain(
    failure: WeightcastError,
    { outcomes, stuck }: Pick<UpdateEnd, 'outcomes' | 'stuck'>,
  ): WeightcastError {
    const broken = [...outcomes].filter(([target, outcome]) => {
      return outcome === 'broken' || (outcome === 'unchanged' && target.isBroken);
    });
    const words = broken.map(([target]) => brokenWords(target, this.#pauses.isPaused(target)));
    const updated = [...outcomes].flatMap(([{ name }, outcome]) => (outcome === 'updated' ? [name] : []));
    if (updated.length > 0) words.push(`the update succeeded in ${updated.join(', ')}`);
    return explained(this.#update.causeOf(failure), [...words, ...stuck.map(stuckWords)]);
  }

  #instances({ outcomes, proofs }: UpdateEnd, seconds: number): InstanceReport[] {
    return this.#update.spec.targets.map((target) => ({
      name: target.name,
      outcome: outcomes.get(target)!,
      paused: this.#pauses.isPaused(target),
      proofs: proofs.get(target)!,
      seconds,
      error: null,
    }));
  }

  /** Received copies are kept for other hosts and later updates, unless the request says otherwise. */
  #keepMirrors({ groups }: OpenEpoch): Copy[] {
    const { options, onMirrorsUnused } = this.#update.spec;
    const copies = groups.flatMap(({ mirrors }) => mirrors);
    if (options.keepCopy) return copies;
    onMirrorsUnused(copies);
    return [];
  }
}
