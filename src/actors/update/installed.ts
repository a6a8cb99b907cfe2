import { VerificationError } from '../../errors.ts';
import { differences, type Held, placeKey, placesApart } from '../../plan/live-weights.ts';
import type { Baseline, Proofs } from '../protocol/update-values.ts';

/** A worker of an instance that was updated, and what one of its models holds now. */
export interface HeldByWorker {
  readonly instance: string;
  readonly rank: number;
  readonly held: Held;
  readonly coverage: 'complete' | 'unknown';
}

/** What workers are compared with beside each other. */
export interface References {
  /** What workers of a place held after an earlier update to the same version; null if there was none. */
  earlier(key: string): Held | null;
  /** Of engines that were started with the version; null if the user gave none. */
  readonly baseline: Baseline | null;
}

/** How well a worker's weights are known to be right. */
type Standing = 'as the baseline' | 'as another' | 'alone';

export interface InstalledProofs {
  /** By instance, of those that do not fail. */
  readonly proofs: ReadonlyMap<string, Proofs['installed']>;
  readonly failures: ReadonlyMap<string, VerificationError>;
}

const namedAtMost = 5;

/**
 * Compares what the workers of updated instances hold, those of one place with each other and with the references. Instances
 * whose workers do not all say what they hold are not among `workers`.
 */
export function proveInstalled(workers: readonly HeldByWorker[], references: References): InstalledProofs {
  const failures = new Map<string, VerificationError>();
  const standings = new Map<HeldByWorker, Standing>();
  for (const group of byPlace(workers)) new PlaceGroup(group, references, failures, standings).compare();
  const proofs = new Map<string, Proofs['installed']>();
  for (const instance of new Set(workers.map((worker) => worker.instance))) {
    if (failures.has(instance)) continue;
    const own = workers.filter((worker) => worker.instance === instance);
    proofs.set(instance, proofOf(own, standings));
  }
  return { proofs, failures };
}

/** What a fresh start holds needs no other proof; what others hold too says nothing of what nobody has written. */
function proofOf(
  workers: readonly HeldByWorker[],
  standings: ReadonlyMap<HeldByWorker, Standing>,
): Proofs['installed'] {
  if (workers.every((worker) => standings.get(worker) === 'as the baseline')) return 'holds';
  const isCovered = workers.every(({ held, coverage }) => coverage === 'complete' || isDraft(held));
  const isCompared = workers.every((worker) => standings.get(worker) !== 'alone');
  return isCovered && isCompared ? 'consistent' : 'unknown';
}

/** Workers of one place: they must hold the same. */
class PlaceGroup {
  readonly #workers: readonly HeldByWorker[];
  readonly #references: References;
  readonly #failures: Map<string, VerificationError>;
  readonly #standings: Map<HeldByWorker, Standing>;

  constructor(
    workers: readonly HeldByWorker[],
    references: References,
    failures: Map<string, VerificationError>,
    standings: Map<HeldByWorker, Standing>,
  ) {
    this.#workers = workers;
    this.#references = references;
    this.#failures = failures;
    this.#standings = standings;
  }

  compare(): void {
    const { held } = this.#workers[0]!;
    const { baseline } = this.#references;
    const key = placeKey(held.place);
    const started = baseline?.find(({ place }) => placeKey(place) === key);
    if (started !== undefined) {
      return this.#compareWith(started, 'the baseline', 'as the baseline', new Set(started.differing));
    }
    if (baseline !== null && !isDraft(held)) return this.#refuseBaseline(baseline);
    const earlier = this.#references.earlier(key);
    if (earlier === null) this.#compareAmong();
    else this.#compareWith(earlier, 'after an earlier update to the same version', 'as another', new Set());
  }

  #compareWith(other: Held, whose: string, standing: Standing, leftOut: ReadonlySet<string>): void {
    for (const worker of this.#workers) {
      const names = differences(worker.held, other, leftOut);
      if (names.length === 0) this.#standings.set(worker, standing);
      else this.#fail(worker, whose, names);
    }
  }

  /** Most of them are right; if there is no majority, nobody knows which are. */
  #compareAmong(): void {
    const classes: HeldByWorker[][] = [];
    for (const worker of this.#workers) {
      const same = classes.find(([first]) => differences(worker.held, first!.held).length === 0);
      if (same === undefined) classes.push([worker]);
      else same.push(worker);
    }
    const most = Math.max(...classes.map(({ length }) => length));
    const largest = classes.filter(({ length }) => length === most);
    const right = largest.length === 1 ? largest[0]! : null;
    for (const one of classes) {
      if (one === right) {
        for (const worker of one) this.#standings.set(worker, most > 1 ? 'as another' : 'alone');
        continue;
      }
      const [other] = right ?? classes.find((another) => another !== one)!;
      const names = differences(one[0]!.held, other!.held);
      for (const worker of one) this.#fail(worker, `rank ${other!.rank} of ${other!.instance}`, names);
    }
  }

  #refuseBaseline(baseline: Baseline): void {
    for (const worker of this.#workers) {
      const apart = baseline.map(({ place }) => placesApart(worker.held.place, place));
      const least = apart.sort((one, other) => one.length - other.length)[0] ?? [];
      const why = `the baseline has nothing of engines like that of rank ${worker.rank} (${least.join('; ')})`;
      this.#failures.set(worker.instance, new VerificationError(`instance ${worker.instance}: ${why}`));
    }
  }

  #fail({ instance, rank }: HeldByWorker, whose: string, names: readonly string[]): void {
    if (this.#failures.has(instance)) return;
    const more = names.length > namedAtMost ? ` and ${names.length - namedAtMost} more` : '';
    const what = `${names.slice(0, namedAtMost).join(', ')}${more}`;
    const message = `instance ${instance}: the engine worker of rank ${rank} holds other weights than ${whose}: ${what}`;
    this.#failures.set(instance, new VerificationError(message));
  }
}

function byPlace(workers: readonly HeldByWorker[]): HeldByWorker[][] {
  const groups = new Map<string, HeldByWorker[]>();
  for (const worker of workers) {
    const key = placeKey(worker.held.place);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [worker]);
    else group.push(worker);
  }
  return [...groups.values()];
}

/** Of a draft model that takes the weights in an exchange of its own, nobody knows how many of them it has. */
function isDraft({ place }: Held): boolean {
  return place.which === 'draft';
}
