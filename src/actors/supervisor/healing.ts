import { AbortedError, asFailure } from '../../errors.ts';
import type { Context } from '../kernel/index.ts';
import type { RememberedHealing } from '../protocol/remembered-values.ts';
import type { UpdateRequest } from '../protocol/update-values.ts';

/** Between two tries: the first, doubled from try to try, and the most. */
const firstMilliseconds = 1_000;
const mostMilliseconds = 60_000;

/** What an instance is to be brought to. */
export interface HealingGoal {
  readonly checkpoint: string;
  /** Its digest: another checkpoint that takes the name is not what the other instances hold. */
  readonly digest: string;
  readonly options: UpdateRequest;
}

interface Patient {
  readonly goal: HealingGoal;
  /** The next try is due in this long; doubled after each. */
  delay: number;
  cancel: () => void;
  running: { readonly abort: AbortController; readonly ended: Promise<void> } | null;
}

/**
 * Instances that an update has left without its version, although others have it: they are updated to it, by themselves,
 * when their ranks and engines are back. They are tried for ever, at a slow rate in the end, until an update that someone
 * requests takes over.
 */
export class Healing {
  readonly #patients = new Map<string, Patient>();
  readonly #update: (name: string, goal: HealingGoal, abort: AbortController) => Promise<boolean>;
  readonly #context: () => Pick<Context<never>, 'clock' | 'log'>;

  readonly #onChange: (patients: RememberedHealing[]) => void;

  /** `onChange` gets what another supervisor has to know. `update` resolves with false if there is no such goal any more, and rejects if another try may succeed. */
  constructor(
    update: (name: string, goal: HealingGoal, abort: AbortController) => Promise<boolean>,
    context: () => Pick<Context<never>, 'clock' | 'log'>,
    onChange: (patients: RememberedHealing[]) => void,
  ) {
    this.#onChange = onChange;
    this.#update = update;
    this.#context = context;
  }

  want(names: readonly string[], goal: HealingGoal): void {
    for (const name of names) {
      const patient: Patient = { goal, delay: firstMilliseconds, cancel: () => {}, running: null };
      this.#patients.set(name, patient);
      this.#tryLater(name, patient);
    }
    this.#changed();
  }

  /** Its ranks are back. */
  hurry(name: string): void {
    const patient = this.#patients.get(name);
    if (patient === undefined || patient.running !== null) return;
    patient.cancel();
    patient.delay = firstMilliseconds;
    this.#start(name, patient);
  }

  /** Something else decides about these from now on. Resolves when those that are being healed have ended; null if none is. */
  leave(names: readonly string[], why: string): Promise<unknown> | null {
    const patients = names.flatMap((name) => this.#patients.get(name) ?? []);
    for (const name of names) this.#patients.delete(name);
    if (patients.length > 0) this.#changed();
    for (const { cancel, running } of patients) {
      cancel();
      running?.abort.abort(new AbortedError(why));
    }
    const ends = patients.flatMap(({ running }) => running?.ended ?? []);
    return ends.length === 0 ? null : Promise.all(ends);
  }

  /** The same for what is being brought to a checkpoint that changes; null if nothing is. */
  leaveCheckpoint(checkpoint: string): Promise<unknown> | null {
    const names = [...this.#patients].flatMap(([name, { goal }]) =>
      goal.checkpoint === checkpoint ? [name] : [],
    );
    return this.leave(names, `${checkpoint} changes`);
  }

  /** The cluster stops. */
  close(): void {
    this.leave([...this.#patients.keys()], 'the cluster is stopping');
  }

  #tryLater(name: string, patient: Patient): void {
    patient.cancel = this.#context().clock.after(patient.delay, () => this.#start(name, patient));
    patient.delay = Math.min(2 * patient.delay, mostMilliseconds);
  }

  #start(name: string, patient: Patient): void {
    const abort = new AbortController();
    patient.running = { abort, ended: this.#try(name, patient, abort) };
  }

  async #try(name: string, patient: Patient, abort: AbortController): Promise<void> {
    const { log } = this.#context();
    let isOver = true;
    try {
      if (await this.#update(name, patient.goal, abort)) log.info({ instance: name }, 'instance is healed');
    } catch (thrown) {
      isOver = false;
      log.info({ instance: name, error: asFailure(thrown).message }, 'instance is not healed yet');
    }
    patient.running = null;
    if (this.#patients.get(name) !== patient) return;
    if (!isOver) return this.#tryLater(name, patient);
    this.#patients.delete(name);
    this.#changed();
  }

  #changed(): void {
    this.#onChange([...this.#patients].map(([name, { goal }]) => ({ name, goal })));
  }
}
