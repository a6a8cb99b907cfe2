import type { Instance } from '../actors/protocol/instance.ts';
import type { InstanceStatus } from '../actors/protocol/status-values.ts';
import { brokenWords, stuckWords } from '../actors/update/words.ts';
import { type CallOptions, type EngineClient, engineOf } from '../engines/engine-client.ts';
import { createEngineClient } from '../engines/engine-options.ts';
import { asFailure } from '../errors.ts';
import { systemClock } from '../native-bridge/clock.ts';

/** Of each engine, for all that is tried. */
const resumeMilliseconds = 10_000;
/** A pause that the supervisor was still asking for may take effect after its death: for so long it is looked after. */
const lateMilliseconds = 2_000;
const pollMilliseconds = 500;

/**
 * What is known of the cluster's engines, as the supervisor says it before they can hear of it: enough to put them right
 * when its process is killed amid an update.
 */
export class LeftEngines {
  readonly #options = new Map<string, Instance>();
  readonly #statuses = new Map<string, InstanceStatus>();

  constructor(instances: readonly Instance[]) {
    for (const instance of instances) this.joins(instance);
  }

  joins(instance: Instance): void {
    this.#options.set(instance.name, instance);
  }

  note(instance: InstanceStatus): void {
    this.#statuses.set(instance.name, instance);
  }

  /** It is no longer the cluster's, and so not to be resumed by it. */
  left(name: string): void {
    this.#options.delete(name);
    this.#statuses.delete(name);
  }

  /**
   * Resumes engines that are paused and whole, when nobody else of the cluster is left to do it. Resolves with what is to be
   * said of those that need attention, or have needed it; `isSaid`: the supervisor has said itself which are broken. Never
   * rejects.
   */
  async settle(isSaid: boolean): Promise<string[]> {
    const statuses = [...this.#statuses.values()].filter((status) => !(isSaid && isBroken(status)));
    const words = statuses.map((status) => this.#settle(status));
    return (await Promise.all(words)).flatMap((said) => said ?? []);
  }

  async #settle(status: InstanceStatus): Promise<string | null> {
    const { name, isPaused } = status;
    const options = this.#options.get(name);
    const instance = { ...status, engine: engineOf(options ?? {}) };
    if (isBroken(status)) return brokenWords(instance, isPaused);
    if (!isPaused || options === undefined) return null;
    const client = createEngineClient(options, systemClock);
    try {
      await resume(client);
      this.note({ ...status, isPaused: false });
      return `instance ${name} was paused, and is resumed with the weights that it had`;
    } catch (thrown) {
      return stuckWords(instance, asFailure(thrown));
    } finally {
      await client.close();
    }
  }
}

/** Nobody knows what the workers of one that was being updated got. */
function isBroken({ state }: InstanceStatus): boolean {
  return state === 'broken' || state === 'updating';
}

async function resume(client: EngineClient): Promise<void> {
  const options = callOptions();
  await client.resume(options);
  for (let waited = 0; waited < lateMilliseconds; waited += pollMilliseconds) {
    await new Promise((wake) => setTimeout(wake, pollMilliseconds));
    const { isPaused } = await client.state(options);
    // An engine that cannot be asked is resumed once more: that changes nothing if it runs.
    if (isPaused !== false) await client.resume(options);
    if (isPaused === null) return;
  }
}

function callOptions(): CallOptions {
  return { timeoutMilliseconds: resumeMilliseconds, signal: AbortSignal.timeout(resumeMilliseconds) };
}
