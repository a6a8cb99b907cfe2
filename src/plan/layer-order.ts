/** The path of a stack of layers, and the number of the layer: the first part of the name that is a number. */
const LAYER = /^(.*?\.)(\d+)\./;

/** Of neighbouring parts that count as runs: the one at the border, and another where files are not in its order. */
const mostSharedLayers = 2;

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
 * Directions for parts of a checkpoint that are sent at the same time. Where neighbours share few layers, as when every
 * rank loaded a run of tensors, every other part goes backward: a layer that two parts share then comes from both at
 * about the same time, at the start or at the end, and isn't held for the whole of the update.
 */
export function directionsOf(keys: Float64Array, parts: readonly (readonly number[])[]): Direction[] {
  const layers = new Set<number>();
  let layersOfParts = 0;
  for (const rows of parts) {
    const own = new Set<number>();
    let last = Number.NaN;
    for (const row of rows) {
      if (keys[row] === last) continue;
      last = keys[row]!;
      own.add(last);
      layers.add(last);
    }
    layersOfParts += own.size;
  }
  const areRuns = layersOfParts <= layers.size + mostSharedLayers * (parts.length - 1);
  return parts.map((_, index) => (areRuns && index % 2 === 1 ? 'backward' : 'forward'));
}
