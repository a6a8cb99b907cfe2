import type { WorldSize } from './engine-client.ts';

/**
 * Why an instance with so many ranks cannot be one of that engine; null if it can. A rank without a worker would wait in vain
 * for one, and a worker without a rank for that.
 */
export function sizeRefusal(what: string, ranks: number, { replica, total }: WorldSize): string | null {
  if (ranks <= total && ranks % replica === 0) return null;
  const has = `${total} ${total === 1 ? 'worker' : 'workers'}`;
  const parts = replica < total ? `, ${replica} in each replica` : '';
  const given = ranks === 1 ? '1 rank' : `${ranks} ranks`;
  return `${what} has ${given}, and its engine has ${has}${parts}: give it one rank for each worker`;
}
