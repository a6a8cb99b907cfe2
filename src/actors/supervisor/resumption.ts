import { asFailure } from '../../errors.ts';
import type { Context } from '../kernel/index.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { SupervisorInbox } from './inbox.ts';
import type { PauseDue } from './instance-entry.ts';
import type { InstanceRegistry } from './instance-registry.ts';
import type { InstanceService } from './instance-service.ts';

/** Between two tries: the first, doubled from try to try, and the most. */
const firstMilliseconds = 1_000;
const mostMilliseconds = 15_000;
/** From one question whether an engine is paused to the next: a pause that was under way may take effect later. */
const lateMilliseconds = 5_000;
/** Twice where it was asked to pause a moment ago and may not have answered, as when the supervisor that asked has died. */
const questions = { few: 1, many: 2 } as const;
type When = 'at once' | 'later';

/**
 * Resumes engines that were left paused although their weights are whole, in the background, for as long as the supervisor
 * lives: after an update whose resume was not answered, and after a supervisor that has died. One that has not answered that it
 * was to pause, and may do so yet, is asked again and again, for as long as is said there.
 */
export class Resumption {
  readonly #instances: InstanceRegistry;
  readonly #service: InstanceService;
  readonly #lastMilliseconds: number;
  /** By instance, what is tried last: an earlier one ends when it wakes up. */
  readonly #wanted = new Map<string, object>();
  /** By instance, what ends when its engine was resumed, or could not be. */
  readonly #running = new Map<string, Promise<void>>();
  /** Until when an engine that may still pause is looked after, by the clock of actors. */
  readonly #until = new WeakMap<PauseDue, number>();
  #context!: Context<SupervisorInbox>;

  /** `lastMilliseconds`: of one try when the cluster ends, and until a pause that may still take effect has. */
  constructor(instances: InstanceRegistry, service: InstanceService, lastMilliseconds: number) {
    this.#instances = instances;
    this.#service = service;
    this.#lastMilliseconds = lastMilliseconds;
  }

  started(context: Context<SupervisorInbox>): void {
    this.#context = context;
  }

  /** Of those that were left paused; the first try is at once, or a moment after one that was in vain. */
  want(names: readonly string[], when: When): void {
    for (const name of names) {
      // One that is being resumed now is looked after.
      if (!this.#instances.isLookedAfter(name) || this.#running.has(name)) continue;
      const wanted = {};
      this.#wanted.set(name, wanted);
      void this.#lookAfter(name, wanted, when).finally(() => {
        if (this.#wanted.get(name) === wanted) this.#wanted.delete(name);
      });
    }
  }

  /** The last try, for when no job runs any more and the cluster ends. Never rejects. */
  async finish(): Promise<void> {
    this.#wanted.clear();
    const left = this.#instances.names.filter((name) => this.#instances.isLookedAfter(name));
    await Promise.all(left.map((name) => this.#finish(name)));
  }

  async #finish(name: string): Promise<void> {
    const milliseconds = this.#lastMilliseconds;
    const resume = () => this.#service.resumeAtEnd(name, milliseconds, this.#context);
    try {
      await resume();
      if (this.#instances.pauseDue(name) !== null) {
        await this.#wait(milliseconds);
        const isPaused = await this.#service.saysPaused(name, milliseconds, this.#context);
        if (isPaused === true) this.#instances.hasPausedLate(name);
        if (isPaused !== false) await resume();
      }
      this.#instances.runs(name);
    } catch (thrown) {
      this.#context.log.warn(
        { instance: name, error: asFailure(thrown).message },
        'an engine is left paused',
      );
    }
  }

  /** Resolves when the engines of these instances are not being resumed any more; null if none is. */
  resumed(names: readonly string[]): Promise<unknown> | null {
    const running = names.flatMap((name) => this.#running.get(name) ?? []);
    return running.length === 0 ? null : Promise.all(running);
  }

  async #lookAfter(name: string, wanted: object, when: When): Promise<void> {
    if (when === 'later') await this.#wait(firstMilliseconds);
    let delay = firstMilliseconds;
    while (this.#isWanted(name, wanted)) {
      if (!this.#instances.isLeftPaused(name)) {
        await this.#look(name, wanted);
        continue;
      }
      try {
        await this.#resume(name, wanted, when);
        delay = firstMilliseconds;
      } catch (thrown) {
        const { message } = asFailure(thrown);
        this.#context.log.warn({ instance: name, error: message }, 'an engine is left paused');
        this.#instances.explain(name, `it is left paused, and is tried to be resumed: ${message}`);
        delay = Math.min(2 * delay, mostMilliseconds);
        await this.#wait(delay);
      }
    }
  }

  async #resume(name: string, wanted: object, when: When): Promise<void> {
    await this.#try(name);
    this.#instances.explain(name, 'it was left paused, and was resumed a moment ago');
    // It counts as paused until then: another supervisor that takes over has to look after it, too.
    const isPausedAgain = await this.#pausesLate(name, wanted, when === 'at once');
    if (isPausedAgain || !this.#isWanted(name, wanted)) return;
    this.#instances.runs(name);
    this.#context.log.info({ instance: name }, 'an engine that was left paused is resumed');
  }

  /** Rejects if an engine that does not say so is not resumed again. */
  async #pausesLate(name: string, wanted: object, isUnknown: boolean): Promise<boolean> {
    const times = isUnknown ? questions.many : questions.few;
    for (let asked = 0; asked < times; asked += 1) {
      await this.#wait(lateMilliseconds);
      if (!this.#isWanted(name, wanted)) return false;
      const isPaused = await this.#says(name);
      if (isPaused === true) {
        this.#instances.hasPausedLate(name);
        return true;
      }
      // One that does not say so, as an SGLang, may be: it is resumed again, which changes nothing if it is not.
      if (isPaused === null && this.#isWanted(name, wanted)) await this.#try(name);
    }
    return false;
  }

  /** At an engine that runs, and may still pause. */
  async #look(name: string, wanted: object): Promise<void> {
    const { clock, log } = this.#context;
    const due = this.#instances.pauseDue(name)!;
    const until = this.#until.get(due) ?? clock.now() + due.milliseconds;
    this.#until.set(due, until);
    if (clock.now() >= until) {
      const waited = `${Math.ceil(due.milliseconds / 1_000)} s`;
      log.warn(
        { instance: name },
        `an engine has neither answered a pause nor paused within ${waited}; nobody looks after it any more`,
      );
      return this.#instances.paused(name, false);
    }
    await this.#wait(Math.min(lateMilliseconds, until - clock.now()));
    if (!this.#isWanted(name, wanted)) return;
    const isPaused = await this.#says(name);
    if (!this.#isWanted(name, wanted)) return;
    if (isPaused === true) {
      log.warn({ instance: name }, 'an engine has paused after nobody waited for that any more');
      this.#instances.hasPausedLate(name);
    }
    // It may be paused, or down.
    if (isPaused === null) await this.#try(name).catch(() => {});
  }

  /** An update that runs decides about it, and asks again when it has ended. */
  #isWanted(name: string, wanted: object): boolean {
    if (this.#context.signal.aborted || this.#wanted.get(name) !== wanted) return false;
    return this.#instances.isLookedAfter(name) && !this.#service.isBusy(name);
  }

  #says(name: string): Promise<boolean | null> {
    return this.#service.saysPaused(name, deadlines.resumeTry, this.#context);
  }

  async #try(name: string): Promise<void> {
    const resuming = this.#service.resumeLeft(name, this.#context);
    const ended = resuming.catch(() => {});
    this.#running.set(name, ended);
    try {
      await resuming;
    } finally {
      if (this.#running.get(name) === ended) this.#running.delete(name);
    }
  }

  #wait(milliseconds: number): Promise<void> {
    return new Promise((resolve) => this.#context.clock.after(milliseconds, resolve));
  }
}
