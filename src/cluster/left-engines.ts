import type { Instance } from '../actors/protocol/instance.ts';
import type { InstanceStatus } from '../actors/protocol/status-values.ts';
import { brokenWords, lateWords, mayBeMixed, stuckWords } from '../actors/update/words.ts';
import { type EngineClient, engineOf } from '../engines/engine-client.ts';
import { createEngineClient } from '../engines/engine-options.ts';
import { asFailure } from '../errors.ts';
import { systemClock } from '../native-bridge/clock.ts';
import { type StopTimes, stopTimes } from '../processes/stop-times.ts';

/** While a pause that the supervisor was still asking for may take effect after its death. */
const polls = 4;

/**
 * What is known of the cluster's engines, as the supervisor says it before they can hear of it: enough to put them right
 * when its process is killed amid an update.
 */
export class LeftEngines {
  readonly #options = new Map<string, Instance>();
  readonly #statuses = new Map<string, InstanceStatus>();
  /** Those that were asked to pause, and have not answered. */
  readonly #mayStillPause = new Set<string>();
  readonly #times: StopTimes;

  /** `stopMilliseconds`: how long the cluster's end may take. */
  constructor(instances: readonly Instance[], stopMilliseconds: number) {
    this.#times = stopTimes(stopMilliseconds);
    for (const instance of instances) this.joins(instance);
  }

  joins(instance: Instance): void {
    this.#options.set(instance.name, instance);
  }

  note(instance: InstanceStatus, mayStillPause: boolean): void {
    const { name } = instance;
    this.#statuses.set(name, instance);
    if (mayStillPause) this.#mayStillPause.add(name);
    else this.#mayStillPause.delete(name);
  }

  /** It is no longer the cluster's, and so not to be resumed by it. */
  left(name: string): void {
    this.#options.delete(name);
    this.#statuses.delete(name);
    this.#mayStillPause.delete(name);
  }

  /**
   * Resumes engines that are paused and whole, when nobody else of the cluster is left to do it. Resolves with what is to be
   * said of those that need attention, or have needed it; `isSaid`: the supervisor has said itself which are broken. Never
   * rejects.
   */
  async settle(isSaid: boolean): Promise<string[]> {
    const statuses = [...this.#statuses.values()].filter((status) => !(isSaid && mayBeMixed(status)));
    const words = statuses.map((status) => this.#settle(status));
    return (await Promise.all(words)).flatMap((said) => said ?? []);
  }

  async #settle(status: InstanceStatus): Promise<string | null> {
    const { name, isPaused } = status;
    const options = this.#options.get(name);
    const instance = { ...status, engine: engineOf(options ?? {}) };
    if (mayBeMixed(status)) return brokenWords(instance, isPaused);
    const mayStillPause = this.#mayStillPause.has(name);
    if (!isPaused || options === undefined) return mayStillPause ? lateWords(instance) : null;
    const client = createEngineClient(options, systemClock);
    try {
      await this.#resume(client);
      this.note({ ...status, isPaused: false }, mayStillPause);
      if (mayStillPause) return lateWords(instance);
      return `instance ${name} was paused, and is resumed with the weights that it had`;
    } catch (thrown) {
      return stuckWords(instance, asFailure(thrown));
    } finally {
      await client.close();
    }
  }

  async #resume(client: EngineClient): Promise<void> {
    const timeoutMilliseconds = Math.ceil(this.#times.leftEngine);
    const options = { timeoutMilliseconds, signal: AbortSignal.timeout(timeoutMilliseconds) };
    await client.resume(options);
    for (let poll = 0; poll < polls; poll += 1) {
      await new Promise((wake) => setTimeout(wake, this.#times.lastResume / polls));
      const { isPaused } = await client.state(options);
      // An engine that cannot be asked is resumed once more: that changes nothing if it runs.
      if (isPaused !== false) await client.resume(options);
      if (isPaused === null) return;
    }
  }
}
