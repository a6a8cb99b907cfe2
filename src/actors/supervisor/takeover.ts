import { asFailure } from '../../errors.ts';
import type { Context } from '../kernel/index.ts';
import { ranksOf } from '../protocol/instance.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';
import type { SupervisorInbox } from './inbox.ts';
import type { InstanceRegistry, Touched } from './instance-registry.ts';
import type { InstanceService } from './instance-service.ts';
import type { RankRegistry } from './rank-registry.ts';

/** Between two tries to resume an engine; also long enough for a pause that was under way to take effect. */
const againMilliseconds = 5_000;
/** Doubled from try to try, up to this. */
const mostMilliseconds = 60_000;

/**
 * What becomes of instances that an update was changing when an earlier supervisor died. One of whose workers nothing was
 * asked holds what it held before; that is known when the ranks that took part have said so. Engines that were paused for the
 * update are resumed, unless they are broken.
 */
export class Takeover {
  readonly #instances: InstanceRegistry;
  readonly #ranks: RankRegistry;
  readonly #service: InstanceService;
  readonly #undecided: Map<string, Touched>;
  /** By instance, what ends when its engine was resumed, or could not be. */
  readonly #resuming = new Map<string, Promise<void>>();
  #context!: Context<SupervisorInbox>;

  /** `undecided`: instances that the update may have changed. */
  constructor(
    instances: InstanceRegistry,
    ranks: RankRegistry,
    service: InstanceService,
    undecided: ReadonlyMap<string, Touched>,
  ) {
    this.#instances = instances;
    this.#ranks = ranks;
    this.#service = service;
    this.#undecided = new Map(undecided);
  }

  /** All instances have joined. */
  started(context: Context<SupervisorInbox>): void {
    this.#context = context;
    for (const name of this.#instances.names) if (!this.#undecided.has(name)) void this.#resume(name);
  }

  rankReady({ rank }: ReadyRank): void {
    const name = this.#instances.withRank(rank);
    const touched = name === null ? undefined : this.#undecided.get(name);
    if (name === null || touched === undefined) return;
    const ranks = ranksOf(this.#instances.options(name));
    if (!this.#ranks.areReady(ranks)) return;
    this.#undecided.delete(name);
    const isUntouched = this.#ranks
      .readyAmong(ranks)
      .every(
        ({ epochs: { first, loaded } }) => first > 0 && first <= touched.epoch && loaded < touched.epoch,
      );
    this.#instances.decide(name, touched, !isUntouched);
    if (isUntouched) void this.#resume(name);
  }

  /** Resolves when the engines of these instances are not being resumed any more; null if none is. */
  resumed(names: readonly string[]): Promise<unknown> | null {
    const running = names.flatMap((name) => this.#resuming.get(name) ?? []);
    return running.length === 0 ? null : Promise.all(running);
  }

  /** Once more after a while, because the request to pause it may reach it late. */
  async #resume(name: string): Promise<void> {
    const { clock, log, signal } = this.#context;
    let delay = againMilliseconds;
    while (this.#instances.isLeftPaused(name) && !signal.aborted) {
      try {
        const resuming = this.#service.resumeLeft(name, this.#context);
        this.#resuming.set(
          name,
          resuming.catch(() => {}),
        );
        await resuming.finally(() => this.#resuming.delete(name));
        await new Promise<void>((resolve) => clock.after(againMilliseconds, resolve));
        await this.#service.resumeLate(name, this.#context);
        log.info({ instance: name }, 'an engine that was left paused is resumed');
      } catch (thrown) {
        const { message } = asFailure(thrown);
        log.warn({ instance: name, error: message }, 'an engine is left paused');
        this.#instances.explain(name, `it is left paused, and is tried to be resumed: ${message}`);
        const wait = delay;
        delay = Math.min(2 * delay, mostMilliseconds);
        await new Promise<void>((resolve) => clock.after(wait, resolve));
      }
    }
  }
}
