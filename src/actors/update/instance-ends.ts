import { EngineError, fromWire, toWire, type WeightcastError } from '../../errors.ts';
import type { InstanceReport, Proofs, ProofsAsked } from '../protocol/update-values.ts';
import type { InstanceOutcome, UpdateContext, UpdateTarget } from './context.ts';
import { notFed } from './feeding.ts';
import type { Pauses } from './pauses.ts';
import { brokenWords, explained } from './words.ts';

interface End {
  readonly target: UpdateTarget;
  readonly outcome: InstanceOutcome;
  readonly proofs: Proofs;
  readonly seconds: number;
  /** Null if it was updated. */
  readonly error: WeightcastError | null;
  /** What needs someone's attention: that it is broken, still paused, or anything else. */
  readonly words: string | null;
  /** It is whole, and all that is wrong is that it has not resumed yet. */
  readonly isOnlyPaused: boolean;
}

/**
 * What becomes of the instances of one update, each at its own time. Notes it in the ledger of instances, and resumes those
 * that are whole.
 */
export class InstanceEnds {
  readonly #update: UpdateContext;
  readonly #pauses: Pauses;
  readonly #startedAt: number;
  /** In the order of the decisions. */
  readonly #decided = new Map<UpdateTarget, InstanceOutcome>();
  readonly #ending: Promise<void>[] = [];
  readonly #ended = new Map<UpdateTarget, End>();
  readonly #touched = new Set<UpdateTarget>();
  readonly #loaded = new Set<UpdateTarget>();
  readonly #notes = new Map<UpdateTarget, string[]>();
  readonly #caches = new Map<UpdateTarget, InstanceReport['caches']>();

  constructor(update: UpdateContext, pauses: Pauses) {
    this.#update = update;
    this.#pauses = pauses;
    this.#startedAt = update.context.clock.now();
  }

  /** The instances that are still to be updated. */
  get left(): UpdateTarget[] {
    return this.#update.spec.targets.filter((target) => !this.#decided.has(target));
  }

  /**
   * From here until they end, these hold neither the old version nor the new one for certain. Rejects if a later supervisor
   * would not know of it.
   */
  async touch(targets: readonly UpdateTarget[], epoch: number): Promise<void> {
    const { instances } = this.#update.spec;
    const names = targets.filter((target) => !this.#touched.has(target)).map(({ name }) => name);
    instances.touched(names, epoch);
    for (const target of targets) this.#touched.add(target);
  }

  /** It may hold a part of the new version: it is broken unless a later epoch updates it. */
  loaded(target: UpdateTarget): void {
    this.#loaded.add(target);
  }

  hasLoaded(target: UpdateTarget): boolean {
    return this.#loaded.has(target);
  }

  /** Something that needs someone's attention, whatever becomes of the instance. */
  note(target: UpdateTarget, words: string): void {
    this.#notes.set(target, [...(this.#notes.get(target) ?? []), words]);
  }

  /** What has become of the caches of its engine, whose weights are new. */
  caches(target: UpdateTarget, outcome: 'dropped' | 'kept'): void {
    this.#caches.set(target, outcome);
  }

  /** It holds the new version. */
  updated(target: UpdateTarget, proofs: Proofs): void {
    this.#decide(target, 'updated', proofs, null);
  }

  /** What it holds is not the checkpoint. */
  wrong(target: UpdateTarget, error: WeightcastError): void {
    this.loaded(target);
    this.failed(target, error);
  }

  /** It is not updated. */
  failed(target: UpdateTarget, error: WeightcastError): void {
    const proofs = unproved(this.#update.spec.options.verify);
    this.#decide(target, this.#loaded.has(target) ? 'broken' : 'unchanged', proofs, error);
  }

  /** Resolves when all that have been decided are resumed, as far as they are whole, or cannot be. */
  async settled(): Promise<void> {
    await Promise.all(this.#ending);
  }

  /** The first of several decisions counts. Nobody waits for the instance to be resumed: others go on meanwhile. */
  #decide(
    target: UpdateTarget,
    outcome: InstanceOutcome,
    proofs: Proofs,
    error: WeightcastError | null,
  ): void {
    if (this.#decided.has(target)) return;
    this.#decided.set(target, outcome);
    const { instances, checkpoint } = this.#update.spec;
    if (this.#touched.has(target)) instances.ended(target.name, outcome, checkpoint.status);
    if (outcome === 'updated') instances.draftKept(target.name, this.#draftKept(target));
    this.#ending.push(this.#end(target, outcome, proofs, error));
  }

  /** Why the draft model of an engine that was updated has the weights that it had before; null if it has not. */
  #draftKept({ name }: UpdateTarget): string | null {
    const { workers, exchanges } = this.#update.spec;
    const draft = workers.get(name)?.draft;
    return draft?.takes === 'nothing' || (draft?.takes === 'apart' && exchanges === 1) ? draft.why : null;
  }

  async #end(
    target: UpdateTarget,
    decided: InstanceOutcome,
    proofs: Proofs,
    error: WeightcastError | null,
  ): Promise<void> {
    const { clock } = this.#update.context;
    const isBroken = decided === 'broken' || (decided === 'unchanged' && target.isBroken);
    const stuck = isBroken ? null : await this.#pauses.resume(target, error !== null);
    const state = isBroken ? brokenWords(target, this.#pauses.isPaused(target)) : stuck;
    const notes = this.#notes.get(target) ?? [];
    const words = [...(state === null ? [] : [state]), ...notes];
    const seconds = (clock.now() - this.#startedAt) / 1000;
    const outcome = isBroken ? 'broken' : decided;
    const said = words.length > 0 ? words.join('; ') : null;
    const needsCare = isBroken || this.#pauses.isPaused(target);
    this.#update.spec.instances.explain(target.name, needsCare ? (error?.message ?? said) : null);
    const isOnlyPaused = stuck !== null && error === null && notes.length === 0;
    this.#ended.set(target, { target, outcome, proofs, seconds, error, words: said, isOnlyPaused });
  }

  /** In the order in which they were decided. */
  get #ends(): End[] {
    return [...this.#decided.keys()].flatMap((target) => this.#ended.get(target) ?? []);
  }

  /** Those that hold the new version. */
  get updatedTargets(): UpdateTarget[] {
    return [...this.#decided].flatMap(([target, outcome]) => (outcome === 'updated' ? [target] : []));
  }

  /** Whether an instance has failed, needs attention, or is still paused. */
  get someFailed(): boolean {
    return this.#ends.some(isFailure);
  }

  get allFailed(): boolean {
    return this.#ends.every((end) => isFailure(end) && !end.isOnlyPaused);
  }

  /** In the order of the request. */
  reports(): InstanceReport[] {
    const { targets, feeding } = this.#update.spec;
    return targets.map((target) => {
      const { outcome, proofs, seconds, error, words } = this.#ended.get(target)!;
      const said = error ?? (words === null ? null : new EngineError(words));
      const wire = said && toWire(error === null || words === null ? said : explained(error, [words]));
      return {
        name: target.name,
        outcome,
        paused: this.#pauses.isPaused(target),
        proofs,
        caches: this.#caches.get(target) ?? null,
        ...(this.#decided.get(target) === 'unchanged' ? notFed : feeding.of(target.name)),
        draftKept: outcome === 'updated' ? this.#draftKept(target) : null,
        seconds,
        error: wire,
      };
    });
  }

  /** All failures in one error, of the class of the first, with what became of each instance; `cause`: why the whole update ended, if it did. */
  failure(what: string, cause: WeightcastError | null): WeightcastError {
    const errors = this.#ends.flatMap(({ target, error }) => (error === null ? [] : [{ target, error }]));
    const words = this.#ends.flatMap((end) => end.words ?? []);
    const first = cause ?? errors[0]?.error;
    const instances = this.reports();
    if (first === undefined) {
      const error = new EngineError(`${what} succeeded, but ${words.join('; ')}`);
      return Object.assign(error, { instances });
    }
    const others = new Map(
      errors
        .filter(({ error }) => error.message !== first.message && cause === null)
        .map(({ target, error }) => [error.message, `instance ${target.name}: ${error.message}`]),
    );
    const message = [first.message, ...others.values(), ...words, ...this.#fine()].join('; ');
    return Object.assign(fromWire({ code: first.code, message, instances }), { cause: first });
  }

  /** Beside instances that failed, which did not. */
  #fine(): string[] {
    const names = (wanted: InstanceOutcome) =>
      this.#ends.filter(({ outcome }) => outcome === wanted).map(({ target }) => target.name);
    const [updated, unchanged] = [names('updated'), names('unchanged')];
    if (unchanged.length === this.#ends.length) return [];
    return [
      ...(unchanged.length > 0 ? [`unchanged: ${unchanged.join(', ')}`] : []),
      ...(updated.length > 0 ? [`the update succeeded in ${updated.join(', ')}`] : []),
    ];
  }
}

function isFailure({ error, words }: End): boolean {
  return error !== null || words !== null;
}

/** What is known of an instance before anything of it is compared. */
export function unproved({ arrived, installed }: ProofsAsked): Proofs {
  return {
    arrived: arrived ? 'unknown' : 'not asked',
    installed: installed ? 'unknown' : 'not asked',
    answering: 'not asked',
  };
}
