import { UsageError, type WeightcastError } from '../../errors.ts';

/** The third is over at once, and never runs beside others. */
type WorkKind = 'registration' | 'update' | 'unregistration';

/** A registration or an update that is running. */
export interface Work {
  /** For messages to people: `updating engine-0 to step-7`. */
  readonly what: string;
  readonly kind: WorkKind;
  readonly checkpoint: string;
  /** Whose loss ends it. */
  readonly ranks: ReadonlySet<number>;
  readonly instances: readonly string[];
  readonly abort: AbortController;
}

/**
 * What is running at a time: one registration, and updates of different instances. A checkpoint that is being installed
 * is not replaced meanwhile.
 */
export class Works {
  readonly #running = new Set<Work>();

  /** Throws `UsageError` that names what stands in the way. */
  checkFree(work: Pick<Work, 'kind' | 'checkpoint' | 'instances'>): void {
    for (const other of this.#running) {
      if (conflict(work, other)) throw new UsageError(`the cluster is busy ${other.what}`);
    }
  }

  /** Work that may begin now. Throws as {@link checkFree} does. */
  prepare(facts: Omit<Work, 'ranks' | 'abort'>, ranks: readonly { readonly rank: number }[]): Work {
    this.checkFree(facts);
    return { ...facts, ranks: new Set(ranks.map(({ rank }) => rank)), abort: new AbortController() };
  }

  begin(work: Work): void {
    this.#running.add(work);
  }

  end(work: Work): void {
    this.#running.delete(work);
  }

  abortAll(reason: WeightcastError): void {
    for (const { abort } of this.#running) abort.abort(reason);
  }

  /** Those that a rank takes part in. */
  of(rank: number): Work[] {
    return [...this.#running].filter(({ ranks }) => ranks.has(rank));
  }
}

function conflict(
  one: Pick<Work, 'kind' | 'checkpoint' | 'instances'>,
  other: Pick<Work, 'kind' | 'checkpoint' | 'instances'>,
): boolean {
  if (one.kind !== other.kind) return one.checkpoint === other.checkpoint;
  return one.kind === 'registration' || one.instances.some((name) => other.instances.includes(name));
}
