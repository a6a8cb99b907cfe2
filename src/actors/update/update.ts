import type { PauseMode } from '../../engines/engine-client.ts';
import { asFailure, DeadlineError } from '../../errors.ts';
import type { Copy } from '../../plan/reception.ts';
import { LeasedSources } from '../join/leased-sources.ts';
import { ask } from '../protocol/ask.ts';
import { toBridge } from '../protocol/bridge.ts';
import { deadlines } from '../protocol/deadlines.ts';
import { toPlanner } from '../protocol/planner.ts';
import { toRank } from '../protocol/rank.ts';
import type { Streamed, UpdateReport } from '../protocol/update-values.ts';
import { type UpdateActor, UpdateContext, type UpdateSpec, type UpdateTarget } from './context.ts';
import { type OpenEpoch, openEpoch, planEpoch, versionOf } from './open.ts';
import { reportOf } from './report.ts';

export interface UpdateOutcome {
  readonly report: UpdateReport;
  /** What hosts have received from other hosts, and keep. */
  readonly copies: readonly Copy[];
}

/** Engines get at least this long to resume, even after the update's deadline. */
const leastResumeMilliseconds = 5_000;

/**
 * Engines that take longer to report ready may have allocated device memory while starting, which makes an earlier plan
 * stale. Shorter than the interval between two requests to an engine's health route.
 */
const readyMilliseconds = 100;

/** A step that reaches the update's deadline reports it in better words, if it gets this long to do so. */
const graceMilliseconds = 500;

/**
 * One update, in order: prepare, plan, open, pause, stream, verify, resume. It changes none of the supervisor's ledgers:
 * the supervisor commits what it resolves with. When it rejects, every rank that could be reached has released what it
 * took.
 */
export class Update {
  readonly #update: UpdateContext;
  readonly #sources: LeasedSources;
  readonly #abort: AbortController;
  /** For timeout messages; null during cleanup, which must not time out. */
  #currentStep: string | null = null;

  /** `abort` aborts the update, from outside or at its deadline. */
  constructor(context: UpdateActor, spec: UpdateSpec, abort: AbortController) {
    this.#update = new UpdateContext(context, spec, abort.signal);
    this.#sources = new LeasedSources(this.#update);
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
      const streamed = await this.#streamIntoEngines(epoch);
      this.#currentStep = 'its verification';
      const verified = await this.#verify(epoch, streamed);
      this.#currentStep = null;
      await this.#resumeEngines(this.#pausable());
      this.#sources.release(spec.options.keepCopy);
      const seconds = (context.clock.now() - startedAt) / 1000;
      const report = reportOf(spec, epoch, streamed, { verified, seconds });
      return { report, copies: this.#keepMirrors(epoch) };
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
      await this.#awaitEngines();
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

  async #awaitEngines(): Promise<void> {
    const timeoutMilliseconds = this.#update.left(deadlines.engineHealthy);
    // The bridge answers within the timeout, and in better words than a missed deadline.
    const within = this.#update.within(timeoutMilliseconds + deadlines.control);
    const asks = this.#update.spec.targets.map(({ bridge }) =>
      ask(this.#update.context, bridge, toBridge.awaitHealthy, { timeoutMilliseconds }, within),
    );
    await Promise.all(asks);
  }

  // ── pause, resume ────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * From here until {@link #resumeEngines} the engines generate nothing. If one cannot be paused, all of them resume but
   * those that are mixed.
   */
  async #pauseEngines({ epoch }: OpenEpoch): Promise<void> {
    const { context } = this.#update;
    const timeoutMilliseconds = this.#update.left();
    const within = this.#update.within(timeoutMilliseconds + deadlines.control);
    const pauses = this.#pausable().map(({ bridge, pause: mode }) =>
      ask(context, bridge, toBridge.pause, { mode, timeoutMilliseconds }, within),
    );
    try {
      await this.#update.allOrAbort(epoch, pauses);
    } catch (error) {
      const whole = this.#pausable().filter(({ isMixed }) => !isMixed);
      await this.#resumeEngines(whole).catch((thrown) => {
        context.log.warn({ epoch, error: asFailure(thrown).message }, 'an engine may still be paused');
      });
      throw error;
    }
  }

  /** Also after the deadline: a paused engine serves no requests. */
  async #resumeEngines(targets: readonly UpdateTarget[]): Promise<void> {
    const timeoutMilliseconds = Math.max(leastResumeMilliseconds, this.#update.left(deadlines.engineResume));
    const options = { deadlineMilliseconds: timeoutMilliseconds + deadlines.control };
    const resumes = targets.map(({ bridge }) =>
      ask(this.#update.context, bridge, toBridge.resume, { timeoutMilliseconds }, options),
    );
    const failed = (await Promise.allSettled(resumes)).find((outcome) => outcome.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  #pausable(): (UpdateTarget & { readonly pause: PauseMode })[] {
    return this.#update.spec.targets.flatMap((target) => {
      const { pause } = target;
      return pause === null ? [] : [{ ...target, pause }];
    });
  }

  // ── stream, verify ───────────────────────────────────────────────────────────────────────────────────────────

  /** The engines' HTTP answers and the ranks' streams race: the first failure ends the wait for all of them. */
  async #streamIntoEngines({ epoch, links }: OpenEpoch): Promise<Streamed[]> {
    const { context, spec } = this.#update;
    const version = versionOf(spec.checkpoint);
    const timeoutMilliseconds = this.#update.left();
    const within = this.#update.within(timeoutMilliseconds + deadlines.control);
    const deviceOf = new Map(spec.ranks.map(({ rank, deviceUuid }) => [rank, deviceUuid]));
    spec.onEnginesTouched();
    // Ranks first: the first upload need not wait for the HTTP requests to be sent.
    const streams = spec.ranks.map(({ ref }) => ask(context, ref, toRank.stream, { epoch }, within));
    const triggers = spec.targets.map(({ bridge, ranks, resetCache }) => {
      const own = Object.fromEntries(ranks.map((rank) => [deviceOf.get(rank)!, links.get(rank)!]));
      const question = { epoch, links: own, version, resetCache, timeoutMilliseconds };
      return ask(context, bridge, toBridge.trigger, question, within);
    });
    await this.#update.allOrAbort<unknown>(epoch, [...triggers, ...streams]);
    return Promise.all(streams);
  }

  /** Null if not asked for, or not all workers report digests. Rejects with `VerificationError`. */
  async #verify({ groups }: OpenEpoch, streamed: readonly Streamed[]): Promise<true | null> {
    const { options, targets, ranks, planner, checkpoint } = this.#update.spec;
    if (!options.verify || streamed.some(({ arrivedDigests }) => arrivedDigests === null)) return null;
    const digestsOf = new Map(ranks.map(({ rank }, index) => [rank, streamed[index]!.arrivedDigests!]));
    const planOf = new Map(
      groups.flatMap(({ plan, ranks: members }) => members.map(({ rank }) => [rank, plan])),
    );
    for (const { name, ranks: members } of targets) {
      const reports = members.map((rank) => {
        return { rank, plan: planOf.get(rank)!, arrivedDigests: digestsOf.get(rank)! };
      });
      const question = { layout: checkpoint.layout, instance: name, reports };
      const within = this.#update.within(deadlines.plan);
      await ask(this.#update.context, planner, toPlanner.verify, question, within);
    }
    return true;
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
