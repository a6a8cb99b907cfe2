import { contradiction } from '../../engines/workers-said.ts';
import { asFailure } from '../../errors.ts';
import type { Context } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import { toBridge } from '../protocol/bridge.ts';
import type { InstanceStatus } from '../protocol/status-values.ts';
import type { SupervisorInbox } from './inbox.ts';
import type { InstanceRegistry } from './instance-registry.ts';

/**
 * Who asks for the status more often, such as a load balancer, gets what was said before: workers answer between two steps of
 * theirs, and look through their models for that, which takes tens of milliseconds.
 */
const freshMilliseconds = 5_000;
/** An engine that does not answer within this time is not waited for: it may be between two steps of its own. */
const answerMilliseconds = 1_000;

/**
 * Asks engines whether they hold what their instances are said to serve: they may have been started again, or updated by
 * another cluster.
 */
export class EngineChecks {
  readonly #instances: InstanceRegistry;
  readonly #isBusy: (name: string) => boolean;
  readonly #askedAt = new Map<string, number>();

  constructor(instances: InstanceRegistry, isBusy: (name: string) => boolean) {
    this.#instances = instances;
    this.#isBusy = isBusy;
  }

  /** Resolves when all that serve have answered, or had the time to. Never rejects. */
  async run(context: Context<SupervisorInbox>): Promise<void> {
    const { names } = this.#instances;
    for (const name of this.#askedAt.keys()) if (!names.includes(name)) this.#askedAt.delete(name);
    const now = context.clock.now();
    const due = names.filter((name) => {
      const askedAt = this.#askedAt.get(name) ?? Number.NEGATIVE_INFINITY;
      return this.#served(name) !== null && now - askedAt > freshMilliseconds;
    });
    await Promise.all(due.map((name) => this.#check(name, context)));
  }

  async #check(name: string, context: Context<SupervisorInbox>): Promise<void> {
    const served = this.#served(name);
    const { bridge, version, label } = this.#instances.targets([name])[0]!;
    this.#askedAt.set(name, context.clock.now());
    try {
      // Of several questions, one after the other, each has its time.
      const options = { deadlineMilliseconds: answerMilliseconds };
      const question = { timeoutMilliseconds: answerMilliseconds };
      const said = await ask(context, bridge, toBridge.identify, question, options);
      const why = contradiction(version!, { ...said, before: label });
      // An update may have begun meanwhile, and have ended.
      if (why !== null && this.#served(name) === served) this.#instances.engineChanged(name, why);
    } catch (thrown) {
      context.log.debug(
        { instance: name, error: asFailure(thrown).message },
        'the engine does not say what it holds',
      );
    }
  }

  /** Null if it serves none, or is being changed. */
  #served(name: string): InstanceStatus['version'] {
    return this.#isBusy(name) ? null : this.#instances.served(name);
  }
}
