import type { ReadyRank } from '../protocol/supervisor.ts';

/**
 * The ranks that broadcast to each other: all of them if their collectives reach other hosts, otherwise those of each
 * host. Each group gets every bucket, and reads what no host of the group holds from other hosts.
 */
export function groupsOf(ranks: readonly ReadyRank[]): ReadyRank[][] {
  if (ranks.every(({ collectiveScope }) => collectiveScope === 'cluster')) return [[...ranks]];
  const groups = new Map<string, ReadyRank[]>();
  for (const rank of ranks) {
    const group = groups.get(rank.host);
    if (group === undefined) groups.set(rank.host, [rank]);
    else group.push(rank);
  }
  return [...groups.values()];
}
