/** The path of a stack of layers, and the number of the layer: the first part of the name that is a number. */
const LAYER = /^(.*?\.)(\d+)\./;

/** In which direction layers are sent. */
export type Direction = 'forward' | 'backward';

/**
 * Of each name a number that grows from layer to layer. Stacks (a vision tower, the decoder) are in the order in which
 * they begin. A tensor outside of layers goes with the tensor before it: -1 before the first layer.
 */
export function layerKeys(names: readonly string[]): Float64Array {
  const keys = new Float64Array(names.length);
  const stacks = new Map<string, number>();
  /** Of the name before. */
  let path: string | null = null;
  let key = -1;
  for (let row = 0; row < names.length; row += 1) {
    const name = names[row]!;
    if (path === null || !name.startsWith(path)) {
      const match = LAYER.exec(name);
      if (match !== null) {
        const [head, stack, layer] = match;
        if (!stacks.has(stack!)) stacks.set(stack!, stacks.size);
        path = head;
        key = stacks.get(stack!)! * 2 ** 32 + Number(layer);
      }
    }
    keys[row] = key;
  }
  return keys;
}

/**
 * Orders rows by layer, and within a layer as they are: engines post-process a layer when it is whole, and have to hold
 * what has come of it until then.
 */
export function byLayer(
  keys: Float64Array,
  rows: readonly number[],
  direction: Direction = 'forward',
): readonly number[] {
  const sign = direction === 'forward' ? 1 : -1;
  let isOrdered = true;
  for (let position = 1; position < rows.length && isOrdered; position += 1)
    isOrdered = sign * (keys[rows[position]!]! - keys[rows[position - 1]!]!) >= 0;
  if (isOrdered) return rows;
  const order = Uint32Array.from(rows, (_, position) => position);
  order.sort((one, other) => sign * (keys[rows[one]!]! - keys[rows[other]!]!) || one - other);
  return Array.from(order, (position) => rows[position]!);
}

/**
 * Directions for parts of a checkpoint that are sent at the same time. Where each part follows the one before, as when
 * every rank loaded a run of layers, every other part goes backward: a layer that two parts share then comes from both
 * at the same time, at the start or at the end, and isn't held for the whole of the update.
 */
export function directionsOf(keys: Float64Array, parts: readonly (readonly number[])[]): Direction[] {
  let end = -1;
  let areRuns = true;
  for (const rows of parts) {
    let [least, most] = [Number.POSITIVE_INFINITY, end];
    for (const row of rows) {
      const key = keys[row]!;
      if (key < 0) continue;
      if (key < least) least = key;
      if (key > most) most = key;
    }
    areRuns &&= least >= end;
    end = most;
  }
  return parts.map((_, index) => (areRuns && index % 2 === 1 ? 'backward' : 'forward'));
}
