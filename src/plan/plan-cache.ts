import { RecentMap } from '../recent-map.ts';
import { type PlanInput, type PlannedUpdate, planWithNeeds } from './buckets.ts';
import { chooseMode, type ModeChoice } from './memory-budget.ts';
import { type Plan, slotMemory } from './plan.ts';
import { rankWithoutRoom } from './waiting-layers.ts';

interface CachedPlan extends PlannedUpdate {
  readonly layout: string;
}

/**
 * The last few plans, by layout, ranks, requested bucket size and fused modules. Free memory differs a little between updates and
 * must not require a new plan each time, so it is not part of the key. Instead a kept plan is reused if the mode and
 * the slots are still what would be chosen now, its slots still fit, and its buckets are at least half as
 * large as those of a new plan. That decision looks at ranks only, not at tensors.
 */
export class PlanCache {
  readonly #plans: RecentMap<string, CachedPlan>;

  constructor(limit = 8) {
    this.#plans = new RecentMap(limit);
  }

  /** A kept plan, or a new one. Throws as {@link planUpdate} and `chooseMode` do. */
  plan(input: PlanInput & { readonly layout: string }): Plan {
    const key = keyOf(input);
    const cached = this.#plans.get(key);
    if (cached !== undefined && isGoodEnough(cached, chooseMode(cached.needs, input), input))
      return cached.plan;
    return this.#plans.set(key, { layout: input.layout, ...planWithNeeds(input) }).plan;
  }

  /** Drops the plans of a layout that is no longer registered. */
  forget(layout: string): void {
    for (const [key, entry] of this.#plans) if (entry.layout === layout) this.#plans.delete(key);
  }
}

function isGoodEnough(
  { choice: kept, waiting }: CachedPlan,
  now: ModeChoice,
  { ranks, fraction }: PlanInput,
): boolean {
  if (slotMemory(kept) > now.budget || rankWithoutRoom(kept, waiting, ranks, fraction) !== null) return false;
  const isAlike =
    kept.mode === now.mode && kept.slots === now.slots && kept.largeSlotBytes > 0 === now.largeSlotBytes > 0;
  if (!isAlike || kept.bucketBytes * 2 >= now.bucketBytes) return isAlike;
  // What waits may have made buckets smaller than the slots alone would have them.
  return waiting.size > 0 && now.budget < kept.budget * 2;
}

function keyOf({ layout, ranks, bucketBytes, fused = [] }: PlanInput): string {
  const members = [...ranks].sort((a, b) => a.rank - b.rank).map(({ rank, host }) => [rank, host]);
  return JSON.stringify([layout, bucketBytes, fused, members]);
}
