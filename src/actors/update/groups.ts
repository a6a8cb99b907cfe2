import type { ReadyRank } from '../protocol/supervisor.ts';

/**
 * The ranks that broadcast to each other: all of them if their collectives reach other hosts, otherwise those of each
 * host. Each group gets every bucket, and reads what no host of the group holds from other hosts.
 */
export function groupsOf(ranks: readonly ReadyRank[]): ReadyRank[][] {
  if (ranks.length === 0) return [];
  if (ranks.every(({ collectiveScope }) => collectiveScope === 'cluster')) return [[...ranks]];
  const groups = new Map<string, ReadyRank[]>();
  for (const rank of ranks) {
    const group = groups.get(rank.host);
    if (group === undefined) groups.set(rank.host, [rank]);
    else group.push(rank);
  }
  return [...groups.values()];
}

/**
 * Divides instances into parts that fail alone: those of one part share a group, and so a broadcast, or receive the same
 * checkpoint from each other's hosts.
 */
export function partsOf<Target extends { readonly ranks: readonly number[] }>(
  targets: readonly Target[],
  groups: readonly { readonly ranks: readonly ReadyRank[]; readonly mirrors: readonly unknown[] }[],
): Target[][] {
  // Groups by their numbers; all that receive count as one.
  const keyOf = new Map<number, number>();
  const receiving = groups.findIndex(({ mirrors }) => mirrors.length > 0);
  for (const [index, { ranks, mirrors }] of groups.entries())
    for (const { rank } of ranks) keyOf.set(rank, mirrors.length > 0 ? receiving : index);
  let parts: { readonly targets: Target[]; readonly keys: Set<number> }[] = [];
  for (const target of targets) {
    const joined = { targets: [target], keys: new Set(target.ranks.map((rank) => keyOf.get(rank)!)) };
    const isShared = ({ keys }: (typeof parts)[number]) => [...keys].some((key) => joined.keys.has(key));
    for (const part of parts.filter(isShared)) {
      joined.targets.unshift(...part.targets);
      for (const key of part.keys) joined.keys.add(key);
    }
    parts = [...parts.filter((part) => !isShared(part)), joined];
  }
  return parts.map((part) => part.targets);
}
