import { asFailure } from '../../errors.ts';
import type { Context } from '../kernel/index.ts';
import type { SupervisorInbox } from './inbox.ts';
import type { InstanceRegistry } from './instance-registry.ts';
import type { InstanceService } from './instance-service.ts';

/** Between two tries: the first, doubled from try to try, and the most. */
const firstMilliseconds = 1_000;
const mostMilliseconds = 15_000;
/** From an engine that was resumed to the question whether it is: a pause that was under way may take effect later. */
const lateMilliseconds = 5_000;
/** The same when the cluster ends. */
const lastMilliseconds = 2_000;
/** Twice where it was asked to pause a moment ago and may not have answered, as when the supervisor that asked has died. */
const questions = { few: 1, many: 2 } as const;
type When = 'at once' | 'later';

/**
 * Resumes engines that were left paused although their weights are whole, in the background, for as long as the supervisor
 * lives: after an update whose resume was not answered, and after a supervisor that has died.
 */
export class Resumption {
  readonly #instances: InstanceRegistry;
  readonly #service: InstanceService;
  /** By instance, what is tried last: an earlier one ends when it wakes up. */
  readonly #wanted = new Map<string, object>();
  /** By instance, what ends when its engine was resumed, or could not be. */
  readonly #running = new Map<string, Promise<void>>();
  #context!: Context<SupervisorInbox>;

  constructor(instances: InstanceRegistry, service: InstanceService) {
    this.#instances = instances;
    this.#service = service;
  }

  started(context: Context<SupervisorInbox>): void {
    this.#context = context;
  }

  /** Of those that were left paused; the first try is at once, or a moment after one that was in vain. */
  want(names: readonly string[], when: When): void {
    for (const name of names) {
      // One that is being resumed now is looked after.
      if (!this.#instances.isLeftPaused(name) || this.#running.has(name)) continue;
      const wanted = {};
      this.#wanted.set(name, wanted);
      void this.#resume(name, wanted, when).finally(() => {
        if (this.#wanted.get(name) === wanted) this.#wanted.delete(name);
      });
    }
  }

  /** The last try, for when no job runs any more and the cluster ends. Never rejects. */
  async finish(): Promise<void> {
    this.#wanted.clear();
    const left = this.#instances.names.filter((name) => this.#instances.isLeftPaused(name));
    await Promise.all(left.map((name) => this.#finish(name)));
  }

  async #finish(name: string): Promise<void> {
    const { log } = this.#context;
    try {
      await this.#service.resumeAtEnd(name, this.#context);
      if (this.#mayStillPause(name)) {
        await this.#wait(lastMilliseconds);
        const isPaused = await this.#service.saysPaused(name, this.#context);
        if (isPaused === true) await this.#service.resumeAtEnd(name, this.#context);
      }
      this.#instances.paused(name, false);
    } catch (thrown) {
      log.warn({ instance: name, error: asFailure(thrown).message }, 'an engine is left paused');
    }
  }

  /** Resolves when the engines of these instances are not being resumed any more; null if none is. */
  resumed(names: readonly string[]): Promise<unknown> | null {
    const running = names.flatMap((name) => this.#running.get(name) ?? []);
    return running.length === 0 ? null : Promise.all(running);
  }

  async #resume(name: string, wanted: object, when: When): Promise<void> {
    const { log } = this.#context;
    let delay = firstMilliseconds;
    if (when === 'later') await this.#wait(delay);
    while (this.#isDue(name, wanted)) {
      const times = when === 'at once' || this.#mayStillPause(name) ? questions.many : questions.few;
      try {
        await this.#try(name);
        this.#instances.explain(name, 'it was left paused, and was resumed a moment ago');
        // It counts as paused until then: another supervisor that takes over has to look after it, too.
        const isPausedAgain = await this.#pausesLate(name, wanted, times);
        if (isPausedAgain || !this.#isDue(name, wanted)) continue;
        this.#instances.paused(name, false);
        log.info({ instance: name }, 'an engine that was left paused is resumed');
      } catch (thrown) {
        const { message } = asFailure(thrown);
        log.warn({ instance: name, error: message }, 'an engine is left paused');
        this.#instances.explain(name, `it is left paused, and is tried to be resumed: ${message}`);
        delay = Math.min(2 * delay, mostMilliseconds);
        await this.#wait(delay);
      }
    }
  }

  #mayStillPause(name: string): boolean {
    return this.#instances.targets([name])[0]!.mayStillPause;
  }

  async #pausesLate(name: string, wanted: object, times: number): Promise<boolean> {
    for (let asked = 0; asked < times; asked += 1) {
      await this.#wait(lateMilliseconds);
      if (!this.#isDue(name, wanted)) return false;
      if ((await this.#service.saysPaused(name, this.#context)) === true) return true;
    }
    return false;
  }

  /** An update that runs decides about it, and asks again when it has ended. */
  #isDue(name: string, wanted: object): boolean {
    if (this.#context.signal.aborted || this.#wanted.get(name) !== wanted) return false;
    return this.#instances.isLeftPaused(name) && !this.#service.isBusy(name);
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
