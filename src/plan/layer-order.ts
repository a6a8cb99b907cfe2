/** The path of a stack of layers, and the number of the layer: the first part of the name that is a number. */
const LAYER = /^(.*?\.)(\d+)\./;

/**
 * Orders rows by layer, and within a layer as they are: engines post-process a layer when it is whole, and have to hold
 * what has come of it until then. Stacks (a vision tower, the decoder) stay in the order in which they begin. A tensor
 * outside of layers stays with the tensor before it.
 */
export function byLayer(names: readonly string[], rows: readonly number[]): readonly number[] {
  const keys = new Float64Array(rows.length);
  const stacks = new Map<string, number>();
  /** Of the row before. */
  let path: string | null = null;
  let key = -1;
  let isOrdered = true;
  for (let position = 0; position < rows.length; position += 1) {
    const name = names[rows[position]!]!;
    if (path === null || !name.startsWith(path)) {
      const match = LAYER.exec(name);
      if (match !== null) {
        const [head, stack, layer] = match;
        if (!stacks.has(stack!)) stacks.set(stack!, stacks.size);
        const next = stacks.get(stack!)! * 2 ** 32 + Number(layer);
        isOrdered &&= next >= key;
        path = head;
        key = next;
      }
    }
    keys[position] = key;
  }
  if (isOrdered) return rows;
  const order = Uint32Array.from(rows, (_, position) => position);
  order.sort((one, other) => keys[one]! - keys[other]! || one - other);
  return Array.from(order, (position) => rows[position]!);
}
