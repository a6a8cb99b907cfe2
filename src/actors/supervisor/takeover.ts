import { ranksOf } from '../protocol/instance.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';
import type { Touched } from './instance-entry.ts';
import type { InstanceRegistry } from './instance-registry.ts';
import type { RankRegistry } from './rank-registry.ts';
import type { Resumption } from './resumption.ts';

/**
 * What becomes of instances that an update was changing when an earlier supervisor died. One of whose workers nothing was
 * asked holds what it held before; that is known when the ranks that took part have said so. Engines that were paused for the
 * update are resumed, unless they are broken.
 */
export class Takeover {
  readonly #instances: InstanceRegistry;
  readonly #ranks: RankRegistry;
  readonly #resumption: Resumption;
  readonly #undecided: Map<string, Touched>;

  /** `undecided`: instances that the update may have changed. */
  constructor(
    instances: InstanceRegistry,
    ranks: RankRegistry,
    resumption: Resumption,
    undecided: ReadonlyMap<string, Touched>,
  ) {
    this.#instances = instances;
    this.#ranks = ranks;
    this.#resumption = resumption;
    this.#undecided = new Map(undecided);
  }

  /** All instances have joined. */
  started(): void {
    const { names } = this.#instances;
    this.#resumption.want(
      names.filter((name) => !this.#undecided.has(name)),
      'at once',
    );
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
    if (isUntouched) this.#resumption.want([name], 'at once');
  }
}
