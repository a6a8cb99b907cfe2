import { cacheResetOf, engineOf } from '../../engines/engine-client.ts';
import { fromWire, NotReadyError, UsageError, type WeightcastError } from '../../errors.ts';
import type { ActorRef } from '../kernel/index.ts';
import type { BridgeMessage } from '../protocol/bridge.ts';
import { type Instance, ranksOf } from '../protocol/instance.ts';
import type { RememberedInstance } from '../protocol/remembered-values.ts';
import type { InstanceStatus } from '../protocol/status-values.ts';
import type { InstanceLedger, InstanceOutcome, UpdateTarget } from '../update/context.ts';
import {
  broken,
  type Entry,
  fresh,
  type Held,
  type Left,
  type PauseDue,
  remembered,
  statusOf,
  type Touched,
  unknown,
  updating,
  verifying,
} from './instance-entry.ts';

const diedWhileUpdating = "the supervisor's process died while it was being updated";

/** Removed instances whose engines are still broken or paused, or may pause yet; the oldest is dropped first. */
const removedLimit = 1_024;

/** The ledger of the cluster's engine instances and of what each serves. It has no effects. */
export class InstanceRegistry implements InstanceLedger {
  readonly #entries = new Map<string, Entry>();
  /** Their engines are as they were when they join again. */
  readonly #removed = new Map<string, Left>();
  readonly #remember: (instances: RememberedInstance[]) => WeightcastError | null;
  readonly #onChange: (instance: InstanceStatus, mayStillPause: boolean) => void;

  /**
   * `remember` gets what another supervisor has to know, and returns why that cannot be written down; both are called before
   * an engine can have heard of what has changed.
   */
  constructor(
    remember: (instances: RememberedInstance[]) => WeightcastError | null = () => null,
    onChange: (instance: InstanceStatus, mayStillPause: boolean) => void = () => {},
  ) {
    this.#remember = remember;
    this.#onChange = onChange;
  }

  /**
   * Takes over what an earlier supervisor knew of instances that are yet to be added, or were removed. Returns those that an
   * update was changing when it died, which count as broken until {@link untouched} is called.
   */
  recall(instances: readonly RememberedInstance[]): ReadonlyMap<string, Touched> {
    const undecided = new Map<string, Touched>();
    for (const { name, held, touched, problem, ...left } of instances) {
      // One that an earlier successor has not decided counts as broken already.
      if (touched !== null) undecided.set(name, touched);
      // The weights of one that was being verified are whole.
      const state = { updating: broken, verifying: unknown }[held.state as string] ?? held;
      const why = held.state === 'updating' ? diedWhileUpdating : problem;
      this.#removed.set(name, { ...left, held: state, touched, problem: why });
    }
    return undecided;
  }

  /** Whether the update that an earlier supervisor died in has changed it; if not, it holds what it held before. */
  decide(name: string, { before, epoch }: Touched, isChanged: boolean): void {
    this.#change([name], (entry) => {
      // Otherwise another update has taken over.
      if (entry.touched?.epoch !== epoch || entry.held.state !== 'broken') return;
      entry.touched = null;
      if (!isChanged) Object.assign(entry, { held: before, problem: null });
    });
  }

  /** Throws `UsageError` if the name is taken. */
  checkNew(name: string): void {
    if (this.#entries.has(name)) throw new UsageError(`the cluster has an instance ${name} already`);
  }

  /** Throws `UsageError` if the name is taken. */
  add(options: Instance, bridge: ActorRef<BridgeMessage>): void {
    this.checkNew(options.name);
    const left = this.#removed.get(options.name) ?? fresh;
    this.#removed.delete(options.name);
    const entry = { ...left, options, bridge, failure: null, hasOtherEngine: false, label: null };
    this.#entries.set(options.name, entry);
    this.#changed();
    this.#tell(entry);
  }

  /** Returns its bridge, if there is such an instance. */
  remove(name: string): ActorRef<BridgeMessage> | null {
    const entry = this.#entries.get(name);
    const isBroken = entry?.held.state === 'broken';
    if (entry !== undefined && (isBroken || entry.isPaused || entry.pauseDue !== null)) {
      const held = isBroken ? broken : unknown;
      const { isPaused, pauseDue, problem, draftKept } = entry;
      this.#removed.set(name, { held, touched: null, isPaused, pauseDue, problem, draftKept });
    }
    if (this.#removed.size > removedLimit) this.#removed.delete(this.#removed.keys().next().value!);
    this.#entries.delete(name);
    this.#changed();
    return entry?.bridge ?? null;
  }

  get names(): string[] {
    return [...this.#entries.keys()];
  }

  /** The instance that a rank belongs to. */
  withRank(rank: number): string | null {
    return this.names.find((name) => ranksOf(this.options(name)).includes(rank)) ?? null;
  }

  /** `failure`: why it cannot be updated now; null: it can. */
  setFailure(name: string, failure: WeightcastError | null): void {
    for (const entry of this.#select([name])) entry.failure = failure;
  }

  /** Why one of these cannot be updated now; null if all can. */
  failureAmong(names: readonly string[]): WeightcastError | null {
    return this.#select(names).find(({ failure }) => failure !== null)?.failure ?? null;
  }

  /** Those of the targets that cannot be updated now, with why: others are updated without them. */
  unfit(
    targets: readonly UpdateTarget[],
    areReady: (ranks: readonly number[]) => boolean,
  ): ReadonlyMap<UpdateTarget, WeightcastError> {
    const unfit = new Map<UpdateTarget, WeightcastError>();
    for (const target of targets) {
      const failure = this.failureAmong([target.name]);
      const words = `a rank of instance ${target.name} is not ready; retry when the status says so`;
      if (failure !== null) unfit.set(target, failure);
      else if (!areReady(target.ranks)) unfit.set(target, new NotReadyError(words));
    }
    return unfit;
  }

  /** An update has paused its engine and not resumed it, although it may be: its weights are whole. */
  isLeftPaused(name: string): boolean {
    return this.#entries.get(name)?.isPaused === true && this.mayServe(name);
  }

  /** The same of one that may still pause. */
  isLookedAfter(name: string): boolean {
    return this.isLeftPaused(name) || (this.pauseDue(name) !== null && this.mayServe(name));
  }

  /** The answer to a pause that it was asked for is due: another object for each; null if none is. */
  pauseDue(name: string): PauseDue | null {
    return this.#entries.get(name)?.pauseDue ?? null;
  }

  /** Its weights are whole, and pauses are not its caller's. */
  mayServe(name: string): boolean {
    const entry = this.#entries.get(name);
    return entry !== undefined && entry.options.pause !== 'caller' && entry.held.state !== 'broken';
  }

  /** Throws `UsageError` if there is no such instance. */
  options(name: string): Instance {
    return this.#entry(name).options;
  }

  /** The version that it serves, as far as is known: another object after each update, whatever it is of. */
  served(name: string): InstanceStatus['version'] {
    return this.#entries.get(name)?.held.version ?? null;
  }

  /** Throws `UsageError` if there is no such instance. */
  targets(names: readonly string[]): UpdateTarget[] {
    return names.map((name) => {
      const { options, bridge, held, isPaused, pauseDue, hasOtherEngine, label } = this.#entry(name);
      const { state, version } = held;
      return {
        name,
        bridge,
        endpoint: options.endpoint,
        engine: engineOf(options),
        ranks: ranksOf(options),
        isBroken: state === 'broken',
        isPaused,
        mayStillPause: pauseDue !== null,
        hasOtherEngine,
        version: version === null ? null : `${version.checkpoint}@${version.digest}`,
        label,
        pause: options.pause ?? null,
        cacheReset: cacheResetOf(options),
      };
    });
  }

  /**
   * How many times each engine worker receives the checkpoint: twice with a draft model. Ranks that broadcast to each
   * other must agree on it: throws `UsageError` if only some of the instances have a draft model.
   */
  exchanges(names: readonly string[]): number {
    const drafting = names.filter((name) => this.options(name).hasDraftModel);
    const other = names.find((name) => !drafting.includes(name));
    if (drafting.length === 0) return 1;
    if (other === undefined) return 2;
    throw new UsageError(
      `instance ${drafting[0]} has a draft model and ${other} has none; update them one after the other`,
    );
  }

  engineChanged(name: string, why: string): void {
    for (const entry of this.#select([name])) entry.hasOtherEngine = true;
    this.versionLost(name, why);
  }

  versionLost(name: string, why: string): void {
    this.#change([name], (entry) => {
      if (entry.held.state !== 'serving') return;
      entry.held = unknown;
      entry.problem = why;
    });
  }

  paused(name: string, isPaused: boolean): void {
    const change = (entry: Entry) => {
      entry.isPaused = isPaused;
      if (!isPaused) entry.pauseDue = null;
    };
    if (isPaused) this.#changeIfNoted([name], change, `that ${name} is to be paused`);
    else this.#change([name], change);
  }

  pauseIsDue(name: string, milliseconds: number): void {
    this.#change([name], (entry) => {
      entry.pauseDue = { milliseconds };
    });
  }

  /** Its engine runs. A pause that is due may change that yet. */
  runs(name: string): void {
    this.#change([name], (entry) => {
      entry.isPaused = false;
    });
  }

  /** The pause that was due has taken effect. */
  hasPausedLate(name: string): void {
    this.#change([name], (entry) => {
      entry.isPaused = true;
      entry.pauseDue = null;
    });
  }

  touched(names: readonly string[], epoch: number): void {
    const change = (entry: Entry) => {
      entry.touched = { before: entry.held, epoch };
      entry.held = updating;
    };
    this.#changeIfNoted(names, change, `that ${names.join(', ')} is to be changed`);
  }

  verifying(name: string): void {
    this.#change([name], (entry) => {
      entry.held = verifying;
    });
  }

  ended(name: string, outcome: InstanceOutcome, version: NonNullable<InstanceStatus['version']>): void {
    const { checkpoint, digest } = version;
    this.#change([name], (entry) => {
      const updated: Held = { state: 'serving', version: { checkpoint, digest } };
      entry.held = { updated, unchanged: entry.touched?.before ?? unknown, broken }[outcome];
      entry.touched = null;
      entry.hasOtherEngine &&= outcome !== 'updated';
    });
  }

  labelled(name: string, label: string | null): void {
    for (const entry of this.#select([name])) entry.label = label;
  }

  draftKept(name: string, why: string | null): void {
    this.#change([name], (entry) => {
      entry.draftKept = why;
    });
  }

  explain(name: string, problem: string | null): void {
    this.#change([name], (entry) => {
      entry.problem = problem;
    });
  }

  status(): InstanceStatus[] {
    return [...this.#entries.values()].map(statusOf);
  }

  #entry(name: string): Entry {
    const entry = this.#entries.get(name);
    if (entry === undefined) throw new UsageError(`the cluster has no instance ${name}`);
    return entry;
  }

  /** Nobody hears of the change before a later supervisor would know it. */
  #change(names: readonly string[], change: (entry: Entry) => void): void {
    const entries = this.#select(names);
    for (const entry of entries) change(entry);
    this.#changed();
    for (const entry of entries) this.#tell(entry);
  }

  /** Throws if a later supervisor would not know of it; then nothing has changed. `what`: for the message. */
  #changeIfNoted(names: readonly string[], change: (entry: Entry) => void, what: string): void {
    const entries = this.#select(names);
    const before = entries.map((entry) => ({ ...entry }));
    for (const entry of entries) change(entry);
    const refusal = this.#changed();
    if (refusal !== null) {
      for (const [index, entry] of entries.entries()) Object.assign(entry, before[index]);
      const { code, message } = refusal;
      throw fromWire({ code, message: `the supervisor cannot write down ${what} (${message}): it is not` });
    }
    for (const entry of entries) this.#tell(entry);
  }

  #changed(): WeightcastError | null {
    const present = [...this.#entries].map(([name, entry]) => remembered(name, entry, false));
    const removed = [...this.#removed].map(([name, left]) => remembered(name, left, true));
    return this.#remember([...present, ...removed]);
  }

  #tell(entry: Entry): void {
    this.#onChange(statusOf(entry), entry.pauseDue !== null);
  }

  #select(names: readonly string[]): Entry[] {
    return names.flatMap((name) => this.#entries.get(name) ?? []);
  }
}
