import { VerificationError } from '../../errors.ts';
import { type Held, placeKey } from '../../plan/live-weights.ts';
import type { Proofs, Streamed } from '../protocol/update-values.ts';
import type { UpdateContext, UpdateTarget } from './context.ts';
import { type HeldByWorker, type InstalledProofs, proveInstalled } from './installed.ts';

/**
 * Compares what the workers of the instances of a round say that they hold, and notes what was found right. An instance that
 * is done waits for the others, which get the same buckets and so are never far behind: which of two that differ is wrong can
 * only be said beside a third.
 */
export class ReplicaComparison {
  readonly #update: UpdateContext;
  /** Those that may still come. */
  readonly #awaited: Set<UpdateTarget>;
  readonly #workers: HeldByWorker[] = [];
  readonly #complete: Promise<InstalledProofs>;
  #resolve!: (outcome: InstalledProofs) => void;
  #isClosed = false;

  constructor(update: UpdateContext) {
    this.#update = update;
    this.#awaited = new Set(update.spec.targets);
    this.#complete = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  /** Of an instance that is updated. Rejects with `VerificationError`, or resolves with the proof. */
  async compare(target: UpdateTarget, streamed: ReadonlyMap<number, Streamed>): Promise<Proofs['installed']> {
    const own = heldBy(target, streamed, this.#update.liveLayouts);
    this.#workers.push(...own);
    // The others may have been compared without it; then it is with them.
    const late = this.#isClosed ? this.#prove() : null;
    this.leave(target);
    if (own.length === 0 && this.#update.spec.options.baseline === null) return 'unknown';
    if (own.length === 0) throw silent(target);
    const { proofs, failures } = late ?? (await this.#complete);
    const failure = failures.get(target.name);
    if (failure !== undefined) throw failure;
    return proofs.get(target.name) ?? 'unknown';
  }

  /** Nobody waits for this instance any more. */
  leave(target: UpdateTarget): void {
    this.#awaited.delete(target);
    if (this.#awaited.size > 0 || this.#isClosed) return;
    this.#isClosed = true;
    this.#resolve(this.#prove());
  }

  #prove(): InstalledProofs {
    const { installs, options, checkpoint } = this.#update.spec;
    const version = checkpoint.status.digest;
    const earlier = (key: string) => installs.earlier(version, key);
    // Not in the order in which they came: the same fault has the same words.
    this.#workers.sort((one, other) => one.rank - other.rank);
    const outcome = proveInstalled(this.#workers, { earlier, baseline: options.baseline });
    for (const { instance, held } of this.#workers) {
      const proof = outcome.proofs.get(instance);
      if (proof === undefined) installs.doubt(version, placeKey(held.place));
      else installs.note(version, held, proof !== 'unknown');
    }
    return outcome;
  }
}

function silent({ name }: UpdateTarget): VerificationError {
  return new VerificationError(
    `instance ${name}: not all of its workers say what they hold, so that nothing is compared with the baseline`,
  );
}

/** Nothing of an instance of which a worker does not say what it holds. */
function heldBy(
  { name: instance, ranks }: UpdateTarget,
  streamed: ReadonlyMap<number, Streamed>,
  known: ReadonlyMap<string, readonly string[]>,
): HeldByWorker[] {
  const workers = ranks.map((rank) => {
    return (streamed.get(rank)?.live ?? []).flatMap(({ place, layout, digests, coverage, names: sent }) => {
      const names = sent?.split('\n') ?? known.get(layout);
      if (names?.length !== digests.length) return [];
      const held: Held = { place, layout, digests, names };
      return [{ instance, rank, held, coverage }];
    });
  });
  return workers.every(({ length }) => length > 0) ? workers.flat() : [];
}
