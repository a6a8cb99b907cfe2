import type { Progress } from '../actors/protocol/status-values.ts';
import type { UpdateReport } from '../actors/protocol/update-values.ts';
import type { Cluster, UpdateOptions } from '../cluster/cluster.ts';
import { AbortedError, NotFoundError, toWire, UsageError, type WireError } from '../errors.ts';
import { ProgressSum } from '../observe/progress-bar.ts';
import type { ClusterKeeper } from './cluster-keeper.ts';
import type { EventHub } from './event-hub.ts';
import type { KeptCheckpoints } from './kept-checkpoints.ts';
import type { KeptInstances } from './kept-instances.ts';

/** Ended updates that can still be asked for. */
const mostEnded = 64;
/** Between two events of progress of one update. */
const progressMilliseconds = 200;

export interface UpdateView {
  readonly id: string;
  readonly checkpoint: string;
  readonly instances: readonly string[];
  readonly state: 'running' | 'succeeded' | 'failed';
  readonly startedAt: string;
  /** So far, while it runs. */
  readonly seconds: number;
  readonly progress: {
    readonly activity: string;
    readonly doneBytes: number;
    readonly totalBytes: number;
  } | null;
  readonly report: UpdateReport | null;
  readonly error: WireError | null;
}

interface Job {
  readonly id: string;
  readonly checkpoint: string;
  readonly instances: readonly string[];
  /** By the clock, which may be set meanwhile; times are counted from `begun`. */
  readonly startedAt: string;
  readonly begun: number;
  readonly ended: Promise<UpdateReport>;
  readonly abort: AbortController;
  sum: ProgressSum;
  progress: UpdateView['progress'];
  toldAt: number;
  endedAt: number | null;
  report: UpdateReport | null;
  error: WireError | null;
}

export type OnUpdateEnded = (report: UpdateReport | null, error: WireError | null, seconds: number) => void;

/** The updates of a daemon: those that run, and the last ones that have ended. */
export class Updates {
  readonly #keeper: ClusterKeeper;
  readonly #checkpoints: KeptCheckpoints;
  readonly #instances: KeptInstances;
  readonly #events: EventHub;
  readonly #onEnded: OnUpdateEnded;
  readonly #jobs = new Map<string, Job>();
  /** Ids of two daemons differ. */
  readonly #prefix = Date.now().toString(36);
  #count = 0;

  constructor(
    keeper: ClusterKeeper,
    checkpoints: KeptCheckpoints,
    instances: KeptInstances,
    events: EventHub,
    onEnded: OnUpdateEnded,
  ) {
    this.#keeper = keeper;
    this.#checkpoints = checkpoints;
    this.#instances = instances;
    this.#events = events;
    this.#onEnded = onEnded;
  }

  /** Resolves when it has ended, as it may have before. Throws `NotFoundError`. */
  async cancel(id: string): Promise<UpdateView> {
    const job = this.#get(id);
    job.abort.abort(new AbortedError('cancelled by its client'));
    await job.ended.catch(() => {});
    return viewOf(job);
  }

  get areRunning(): boolean {
    return [...this.#jobs.values()].some(({ endedAt }) => endedAt === null);
  }

  /** Throws `NotReadyError`, `NotFoundError` and `CheckpointError`. `ended` rejects as `Cluster.update`. */
  start(
    checkpoint: string,
    options: UpdateOptions,
  ): { readonly id: string; readonly ended: Promise<UpdateReport> } {
    this.#keeper.check();
    this.#checkpoints.check(checkpoint);
    for (const name of options.instances ?? []) this.#instances.check(name);
    const instances = options.instances ?? this.#instances.names;
    if (instances.length === 0)
      throw new UsageError('the daemon has no instance to update: add one first (weightcast add)');
    this.#checkpoints.checkLoaded(checkpoint);
    this.#count += 1;
    const id = `${this.#prefix}-${this.#count}`;
    const abort = new AbortController();
    const { signal } = abort;
    const ended = this.#run(() =>
      this.#keeper.use((cluster) => cluster.update(checkpoint, { ...options, signal })),
    );
    const job: Job = {
      id,
      checkpoint,
      instances,
      startedAt: new Date().toISOString(),
      begun: performance.now(),
      ended,
      abort,
      sum: new ProgressSum(),
      progress: null,
      toldAt: Number.NEGATIVE_INFINITY,
      endedAt: null,
      report: null,
      error: null,
    };
    this.#jobs.set(id, job);
    this.#tell(job);
    ended.then(
      (report) => this.#end(job, report, null),
      (error) => this.#end(job, null, toWire(error)),
    );
    return { id, ended };
  }

  /** Throws `NotFoundError`. */
  view(id: string): UpdateView {
    return viewOf(this.#get(id));
  }

  views(): UpdateView[] {
    return [...this.#jobs.values()].map(viewOf);
  }

  /** Notes the progress of a rank whose instance is updated. */
  progress(progress: Progress): void {
    const instance = this.#instances.withRank(progress.rank);
    const job = [...this.#jobs.values()].find(
      ({ endedAt, instances }) => endedAt === null && instance !== null && instances.includes(instance),
    );
    if (job === undefined) return;
    const { activity } = progress;
    // Every rank takes the whole checkpoint; what each of them receives from other hosts differs.
    const ranks = activity === 'update' ? this.#instances.ranksOf(job.instances) : 0;
    if (job.progress?.activity !== activity) job.sum = new ProgressSum(ranks);
    job.progress = { activity, ...job.sum.add(progress) };
    if (performance.now() - job.toldAt < progressMilliseconds) return;
    job.toldAt = performance.now();
    this.#events.tell({ type: 'progress', update: job.id, checkpoint: job.checkpoint, ...job.progress });
  }

  async #run(update: () => Promise<UpdateReport>): Promise<UpdateReport> {
    try {
      const report = await update();
      this.#instances.updated(report);
      await this.#checkpoints.dropTemporary([report.checkpoint, ...this.#instances.served]);
      return report;
    } catch (error) {
      const observe = async (cluster: Cluster) => this.#instances.observe(await cluster.status());
      await this.#keeper.use(observe).catch(() => {});
      throw error;
    }
  }

  #get(id: string): Job {
    const job = this.#jobs.get(id);
    if (job === undefined) throw new NotFoundError(`the daemon has no update ${id}, or no longer`);
    return job;
  }

  #end(job: Job, report: UpdateReport | null, error: WireError | null): void {
    job.endedAt = performance.now();
    Object.assign(job, { report, error });
    this.#onEnded(report, error, secondsOf(job));
    this.#tell(job);
    const ended = [...this.#jobs.values()].filter(({ endedAt }) => endedAt !== null);
    for (const { id } of ended.slice(0, -mostEnded)) this.#jobs.delete(id);
  }

  #tell(job: Job): void {
    const { id, checkpoint, instances, state, seconds, error } = viewOf(job);
    this.#events.tell({ type: 'update', update: id, checkpoint, instances, state, seconds, error });
  }
}

function secondsOf({ begun, endedAt }: Job): number {
  return ((endedAt ?? performance.now()) - begun) / 1_000;
}

function viewOf(job: Job): UpdateView {
  const { id, checkpoint, instances, startedAt, endedAt, progress, report, error } = job;
  const state = endedAt === null ? 'running' : error === null ? 'succeeded' : 'failed';
  const seconds = secondsOf(job);
  return { id, checkpoint, instances, state, startedAt, seconds, progress, report, error };
}
