import type { RankMember } from '../supervisor/rank-registry.ts';

/**
 * The ranks that broadcast to each other: all of them where their collectives reach other hosts, otherwise those of a
 * host. Each group gets every bucket; what lies on no host of the group it reads from other hosts.
 */
export function groupsOf(ranks: readonly RankMember[]): RankMember[][] {
  if (ranks.every(({ collectiveScope }) => collectiveScope === 'cluster')) return [[...ranks]];
  const groups = new Map<string, RankMember[]>();
  for (const rank of ranks) {
    const group = groups.get(rank.host);
    if (group === undefined) groups.set(rank.host, [rank]);
    else group.push(rank);
  }
  return [...groups.values()];
}
