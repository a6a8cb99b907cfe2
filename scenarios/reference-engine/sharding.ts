import type { Cut as Indices } from '../../src/checkpoint/cuts.ts';

/**
 * Which bytes of a checkpoint's tensor a tensor-parallel worker holds, and in which of its parameters, by the same rules
 * as the weight loaders of vLLM's parallel layers.
 */

/** A worker's place in its engine instance. */
export interface Place {
  readonly ranks: number;
  readonly rank: number;
  /** `num_key_value_heads` of the model, if known: keys and values are split between heads only. */
  readonly keyValueHeads: number | null;
}

export interface SourceTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** Bytes of a tensor: `rows` runs of `rowBytes` bytes, whose starts are `pitch` bytes apart. */
export interface Rectangle {
  /** Offset of the first byte in the tensor. */
  readonly offset: number;
  readonly rowBytes: number;
  readonly rows: number;
  readonly pitch: number;
}

/** The part of one tensor that a worker holds, contiguous in its parameter. */
export interface Shard {
  /** Tensors that a layer uses together share a parameter, with vLLM's name. */
  readonly parameter: string;
  /** Order among the shards of the parameter, which follow each other. */
  readonly position: number;
  readonly source: Rectangle;
  /** The same in indices of the tensor; null for all of it. */
  readonly cut: Indices | null;
  readonly part: number;
  readonly parts: number;
  /** Whether no lower rank holds the same part. */
  readonly first: boolean;
}

export function shardTensor(tensor: SourceTensor, place: Place): Shard {
  const { parameter, position, axis, perHead } = roleOf(tensor.name);
  const cut = axis === null ? null : cutAlong(axis, tensor, wantedParts(perHead, place));
  if (cut === null) {
    const source = { offset: 0, rowBytes: tensor.bytes, rows: 1, pitch: tensor.bytes };
    return { parameter, position, source, cut: null, part: 0, parts: 1, first: place.rank === 0 };
  }
  const holders = place.ranks / cut.parts;
  const part = Math.floor(place.rank / holders);
  const source = { ...cut.rectangle, offset: part * cut.stride };
  const length = tensor.shape[axis!]! / cut.parts;
  const indices = { dim: axis!, start: part * length, length };
  const first = place.rank % holders === 0;
  return { parameter, position, source, cut: indices, part, parts: cut.parts, first };
}

interface Role {
  readonly parameter: string;
  readonly position: number;
  /** The dimension along which the tensor is split; null if every worker holds all of it. */
  readonly axis: 0 | 1 | null;
  /** Whether the tensor consists of one block for each key-value head. */
  readonly perHead: boolean;
}

/** The tensors of a linear layer that have the shape of its weight, [outputs, inputs], or of blocks of it. */
const linear = /^(.*\.)?(\w+)\.(weight|weight_packed|weight_scale|weight_scale_inv|bias)$/;
const expert = /^(.*\.experts\.)(\d+)\.$/;

/** Layers that are split along their outputs: the parameter that holds them, and their order in it. */
const columnParallel = new Map([
  ['q_proj', { fused: 'qkv_proj', order: 0 }],
  ['k_proj', { fused: 'qkv_proj', order: 1 }],
  ['v_proj', { fused: 'qkv_proj', order: 2 }],
  ['gate_proj', { fused: 'gate_up_proj', order: 0 }],
  ['up_proj', { fused: 'gate_up_proj', order: 1 }],
  ['embed_tokens', { fused: 'embed_tokens', order: 0 }],
  ['lm_head', { fused: 'lm_head', order: 0 }],
]);

/** Layers that are split along their inputs. Every worker holds the whole bias; one of them adds it. */
const rowParallel = new Set(['o_proj', 'down_proj']);

function roleOf(name: string): Role {
  const alone = { parameter: name, position: 0, axis: null, perHead: false };
  const match = linear.exec(name);
  if (match === null) return alone;
  const [, prefix = '', layer, kind] = match as unknown as [string, string | undefined, string, string];
  const column = columnParallel.get(layer);
  if (column === undefined && !rowParallel.has(layer)) return alone;
  const axis = column !== undefined ? 0 : kind === 'bias' ? null : 1;
  const perHead = layer === 'k_proj' || layer === 'v_proj';
  const ofExpert = expert.exec(prefix);
  const fused = column?.fused === 'gate_up_proj' ? 'w13' : layer === 'down_proj' ? 'w2' : null;
  if (ofExpert === null || fused === null) {
    const parameter = `${prefix}${column?.fused ?? layer}.${kind}`;
    return { parameter, position: column?.order ?? 0, axis, perHead };
  }
  // The experts of a layer lie in two parameters: w13 holds gate and up of each, w2 down.
  const [, experts, number] = ofExpert as unknown as [string, string, string];
  const position = column === undefined ? Number(number) : Number(number) * 2 + column.order;
  return { parameter: `${experts}${fused}_${kind}`, position, axis, perHead };
}

/** Into how many parts a layer is split; 1 if it cannot be split evenly. */
function wantedParts(perHead: boolean, { ranks, keyValueHeads }: Place): number {
  if (!perHead || keyValueHeads === null) return ranks;
  if (keyValueHeads >= ranks) return keyValueHeads % ranks === 0 ? ranks : 1;
  // Fewer heads than workers: several workers hold the same head.
  return ranks % keyValueHeads === 0 ? keyValueHeads : 1;
}

interface Cut {
  readonly parts: number;
  /** The first part. */
  readonly rectangle: Rectangle;
  /** Bytes from the start of one part to the start of the next. */
  readonly stride: number;
}

/** Null if the tensor cannot be split so: too few dimensions, an uneven one, or parts that end within a byte. */
function cutAlong(axis: 0 | 1, { shape, bytes }: SourceTensor, parts: number): Cut | null {
  const size = shape[axis];
  if (parts === 1 || bytes === 0 || size === undefined || size % parts !== 0) return null;
  const rows = axis === 0 ? 1 : shape[0]!;
  if (bytes % (rows * parts) !== 0) return null;
  const rowBytes = bytes / rows / parts;
  return { parts, rectangle: { offset: 0, rowBytes, rows, pitch: bytes / rows }, stride: rowBytes };
}
