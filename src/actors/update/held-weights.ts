import { type Held, placeKey } from '../../plan/live-weights.ts';
import type { Streamed } from '../protocol/update-values.ts';
import type { UpdateContext, UpdateTarget } from './context.ts';
import { type HeldByWorker, type InstalledProofs, proveInstalled } from './installed.ts';

/** Compares what the workers of these instances say that they hold, and notes what was found right. */
export function compareHeld(
  update: UpdateContext,
  targets: readonly UpdateTarget[],
  streamed: ReadonlyMap<number, Streamed>,
): InstalledProofs {
  const { installs, options, checkpoint } = update.spec;
  const version = checkpoint.status.digest;
  const names = new Map(update.liveLayouts);
  for (const { layout, names: sent } of [...streamed.values()].flatMap(({ live }) => live)) {
    if (sent !== null) names.set(layout, sent.split('\n'));
  }
  const workers = targets.flatMap((target) => heldBy(target, streamed, names));
  const earlier = (key: string) => installs.earlier(version, key);
  const outcome = proveInstalled(workers, { earlier, baseline: options.baseline });
  const noted = new Set<string>();
  for (const { instance, held } of workers) {
    const key = placeKey(held.place);
    if (outcome.failures.has(instance) || noted.has(key)) continue;
    noted.add(key);
    installs.note(version, held);
  }
  return outcome;
}

/** Nothing of an instance of which a worker does not say what it holds. */
function heldBy(
  { name: instance, ranks }: UpdateTarget,
  streamed: ReadonlyMap<number, Streamed>,
  namesOf: ReadonlyMap<string, readonly string[]>,
): HeldByWorker[] {
  const workers = ranks.map((rank) => {
    return (streamed.get(rank)?.live ?? []).flatMap(
      ({ place, layout, digests, coverage }): HeldByWorker[] => {
        const names = namesOf.get(layout);
        if (names?.length !== digests.length) return [];
        const held: Held = { place, layout, digests, names };
        return [{ instance, rank, held, coverage }];
      },
    );
  });
  return workers.every(({ length }) => length > 0) ? workers.flat() : [];
}
