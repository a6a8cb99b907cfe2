import { contradiction } from '../../engines/workers-said.ts';
import { asFailure } from '../../errors.ts';
import type { Context } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import { toBridge } from '../protocol/bridge.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { SupervisorInbox } from './inbox.ts';
import type { InstanceRegistry } from './instance-registry.ts';

/** Who asks for the status more often gets what was said before. */
const freshMilliseconds = 1_000;
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
    const version = this.#served(name)!;
    const { bridge } = this.#instances.targets([name])[0]!;
    this.#askedAt.set(name, context.clock.now());
    const options = { deadlineMilliseconds: answerMilliseconds + deadlines.control };
    try {
      const question = { timeoutMilliseconds: answerMilliseconds };
      const said = await ask(context, bridge, toBridge.identify, question, options);
      const why = contradiction(version, said.version, said);
      // An update may have begun meanwhile.
      if (why !== null && this.#served(name) === version) this.#instances.versionLost(name, why);
    } catch (thrown) {
      context.log.debug(
        { instance: name, error: asFailure(thrown).message },
        'the engine does not say what it holds',
      );
    }
  }

  /** Null if it serves none, or is being changed. */
  #served(name: string): string | null {
    if (!this.#instances.names.includes(name) || this.#isBusy(name)) return null;
    return this.#instances.targets([name])[0]!.version;
  }
}
