import type { WorldSize } from './engine-client.ts';

/**
 * Why an instance with these ranks cannot be one of that engine; null if it can. A rank without a worker would wait in vain
 * for one, and a worker without a rank for that.
 */
export function sizeRefusal(
  what: string,
  ranks: readonly number[],
  { replica, total }: WorldSize,
): string | null {
  if (ranks.length <= total && ranks.length % replica === 0) return null;
  const has = `${total} ${total === 1 ? 'worker' : 'workers'}`;
  const parts = replica < total ? `, ${replica} in each replica` : '';
  const given = ranks.length === 1 ? `rank ${ranks[0]}` : `ranks ${ranks.join(', ')}`;
  return `${what} has ${given}, and its engine has ${has}${parts}: give it one rank for each worker`;
}
