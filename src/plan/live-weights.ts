import type { LiveDigests } from '../engines/worker-link/worker-link.ts';

/** What one worker's model holds, every tensor by name. */
export interface Held extends Pick<LiveDigests, 'place' | 'layout' | 'digests'> {
  /** Each followed by its form: `lm_head.weight bfloat16[2048,512](512,1)`. */
  readonly names: readonly string[];
}

/** Equal for workers that hold the same after the same update. */
export function placeKey(place: Held['place']): string {
  return JSON.stringify(Object.entries(place).sort(([one], [other]) => (one < other ? -1 : 1)));
}

/** Properties in which two places differ, as one says them and the other. */
export function placesApart(one: Held['place'], other: Held['place']): string[] {
  const properties = new Set([...Object.keys(one), ...Object.keys(other)]);
  return [...properties]
    .filter((property) => one[property] !== other[property])
    .map((property) => `${property} ${one[property] ?? 'none'}, not ${other[property] ?? 'none'}`);
}

/**
 * Names of tensors in which two workers of one place differ. Parameters are compared all; other tensors where both have them
 * in the same form: layers make some of theirs when they are first used, or as long as the engine's longest request.
 *
 * `leftOut`: names that are not compared, because they differ among fresh starts.
 */
export function differences(one: Held, other: Held, leftOut: ReadonlySet<string> = new Set()): string[] {
  if (one.layout === other.layout && sameBytes(one.digests, other.digests)) return [];
  const digestOf = new Map(other.names.map((name, row) => [name, other.digests[row]!]));
  const differing = new Set<string>();
  for (const [row, name] of one.names.entries()) {
    const digest = digestOf.get(name);
    digestOf.delete(name);
    if (leftOut.has(name) || digest === one.digests[row]) continue;
    if (digest !== undefined || isParameter(name)) differing.add(withoutForm(name));
  }
  for (const name of digestOf.keys()) {
    if (isParameter(name) && !leftOut.has(name)) differing.add(withoutForm(name));
  }
  return [...differing];
}

export function withoutForm(name: string): string {
  const end = name.lastIndexOf(' ');
  return end === -1 ? name : name.slice(0, end);
}

/** Whatever else a layer holds has a colon after the layer's name. */
function isParameter(name: string): boolean {
  return !withoutForm(name).includes(':');
}

function sameBytes(one: BigUint64Array, other: BigUint64Array): boolean {
  return one.length === other.length && one.every((word, row) => word === other[row]);
}
