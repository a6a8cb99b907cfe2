import {
  AbortedError,
  DeadlineError,
  OutOfHostMemoryError,
  PeerLostError,
  type WeightcastError,
} from '../../errors.ts';

/**
 * What failed in one epoch, by who reported it. One failure causes others: peers of a rank that failed are aborted, and
 * engines repeat what ranks sent their workers. Any of these may arrive before the cause does.
 */
export class Failures<Target extends { readonly ranks: readonly number[] }> {
  readonly #lost = new Map<number, WeightcastError>();
  readonly #unresponsive = new Map<number, WeightcastError>();
  readonly #ofRank = new Map<number, WeightcastError>();
  readonly #ofEngine = new Map<Target, WeightcastError>();

  /** The process of a rank has ended. */
  rankLost(rank: number, error: WeightcastError): void {
    if (!this.#lost.has(rank)) this.#lost.set(rank, error);
  }

  /**
   * A rank has reported this, or did not answer. An `AbortedError` it has reported before the epoch was aborted: that is of
   * another rank's making. The first error of a rank counts.
   */
  ofRank(rank: number, error: WeightcastError): void {
    if (!this.#ofRank.has(rank)) this.#ofRank.set(rank, error);
  }

  /** A rank has not said that it has released what it took: it is at fault, but what else failed says more. */
  unresponsive(rank: number, error: WeightcastError): void {
    this.#unresponsive.set(rank, error);
  }

  ofEngine(target: Target, error: WeightcastError): void {
    if (!this.#ofEngine.has(target)) this.#ofEngine.set(target, error);
  }

  /** A rank found no room for what it was to receive. */
  get outOfHostMemory(): boolean {
    return [...this.#ofRank.values()].some((error) => error instanceof OutOfHostMemoryError);
  }

  /**
   * The instances that caused the failure of an epoch, each with what failed in it. Ranks come first: an engine's error may
   * be the echo of what a rank told its worker. Empty if none of the instances is known to be at fault.
   */
  blamed(targets: readonly Target[]): ReadonlyMap<Target, WeightcastError> {
    const ways = [
      (target: Target) => {
        const cause = this.#first(target, (rank) => this.#lost.get(rank) ?? this.#cause(rank));
        const missed = this.#first(target, (rank) => this.#unresponsive.get(rank) ?? null);
        return cause ?? (missed && (notAborted(this.#ofEngine.get(target)) ?? missed));
      },
      (target: Target) => this.#engineCause(target),
      (target: Target) => this.#first(target, (rank) => notAborted(this.#ofRank.get(rank))),
    ];
    for (const causeIn of ways) {
      const blamed = targets.flatMap((target) => {
        const cause = causeIn(target);
        return cause === null ? [] : [[target, cause] as const];
      });
      if (blamed.length > 0) return new Map(blamed);
    }
    return new Map();
  }

  #first({ ranks }: Target, errorOf: (rank: number) => WeightcastError | null): WeightcastError | null {
    const errors = ranks.map(errorOf).filter((error) => error !== null);
    // That a process has ended says more than what its other ranks noticed of that.
    return errors.find((error) => error instanceof PeerLostError) ?? errors[0] ?? null;
  }

  /** What a rank reported, unless it says only that it waited in vain for another one. */
  #cause(rank: number): WeightcastError | null {
    const error = this.#ofRank.get(rank) ?? null;
    return isOfOthers(error) ? null : error;
  }

  #engineCause(target: Target): WeightcastError | null {
    const waitedInVain = target.ranks.some((rank) => isOfOthers(this.#ofRank.get(rank) ?? null));
    return waitedInVain ? null : notAborted(this.#ofEngine.get(target));
  }
}

/** Broadcasts and reads end with these when another rank is at fault. */
function isOfOthers(error: WeightcastError | null): boolean {
  return error instanceof AbortedError || error instanceof PeerLostError || error instanceof DeadlineError;
}

function notAborted(error: WeightcastError | undefined): WeightcastError | null {
  return error === undefined || error instanceof AbortedError ? null : error;
}
