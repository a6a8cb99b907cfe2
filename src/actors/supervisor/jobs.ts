import { BusyError, type WeightcastError } from '../../errors.ts';

/** A registration or an update: what it is about. */
export interface JobFacts {
  readonly kind: 'registration' | 'update';
  /** For messages: `updating engine-0 to step-7`. */
  readonly what: string;
  readonly checkpoint: string;
  /** The loss of one of them aborts the job. */
  readonly ranks: readonly { readonly rank: number }[];
  /** Instances that it changes. */
  readonly instances: readonly string[];
}

interface Job extends JobFacts {
  readonly abort: AbortController;
  /** Resolves when it has ended. */
  readonly ended: Promise<void>;
}

/**
 * The jobs that are running: at most one registration, and updates of different instances. No checkpoint is replaced or
 * unregistered during an update to it.
 */
export class Jobs {
  readonly #running = new Set<Job>();
  #closedBy: WeightcastError | null = null;

  /**
   * Runs `work` as a job, from this call until its promise settles. Throws `BusyError`, before `work` is called, when it
   * conflicts with a running job. After an abort it rejects with the reason of the abort.
   */
  async run<T>(facts: JobFacts, work: (abort: AbortController) => Promise<T>): Promise<T> {
    if (this.#closedBy !== null) throw this.#closedBy;
    if (facts.kind === 'registration') this.checkRegistration(facts.checkpoint);
    else this.#checkUpdate(facts);
    let end = () => {};
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    const job = { ...facts, abort: new AbortController(), ended };
    this.#running.add(job);
    const { signal } = job.abort;
    try {
      return await work(job.abort);
    } catch (error) {
      // Whatever failed after the abort failed because of it; an error whose cause it is says more about it.
      const isExplained = error instanceof Error && error.cause === signal.reason;
      throw signal.aborted && !isExplained ? signal.reason : error;
    } finally {
      this.#running.delete(job);
      end();
    }
  }

  /** Throws `BusyError` if a registration of this checkpoint cannot start now. */
  checkRegistration(checkpoint: string): void {
    this.#refuseBeside((job) => job.kind === 'registration' || job.checkpoint === checkpoint);
  }

  #checkUpdate({ checkpoint, instances }: JobFacts): void {
    this.#refuseBeside(({ kind, ...job }) =>
      kind === 'registration'
        ? job.checkpoint === checkpoint
        : instances.some((name) => job.instances.includes(name)),
    );
  }

  /** Throws `BusyError` while a job uses this checkpoint. */
  checkUnused(checkpoint: string): void {
    this.#refuseBeside((job) => job.checkpoint === checkpoint);
  }

  /** Whether an update changes this instance. */
  isBusy(instance: string): boolean {
    return [...this.#running].some(({ instances }) => instances.includes(instance));
  }

  #refuseBeside(conflicts: (job: Job) => boolean): void {
    for (const job of this.#running) {
      if (conflicts(job)) throw new BusyError(`the cluster is busy ${job.what}; retry when that has ended`);
    }
  }

  /** Aborts all jobs and refuses further ones. Resolves when they have ended. */
  async drain(reason: WeightcastError): Promise<void> {
    this.#closedBy = reason;
    this.abortAll(reason);
    await Promise.all([...this.#running].map(({ ended }) => ended));
  }

  abortAll(reason: WeightcastError): void {
    for (const { abort } of this.#running) abort.abort(reason);
  }

  /** Aborts the jobs that a rank takes part in; `reasonFor` gets what each is about. */
  abortWith(rank: number, reasonFor: (what: string) => WeightcastError): void {
    for (const { ranks, what, abort } of this.#running) {
      if (ranks.some((one) => one.rank === rank)) abort.abort(reasonFor(what));
    }
  }
}
