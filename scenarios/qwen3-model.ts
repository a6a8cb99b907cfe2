import { mkdir, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { encodeHeader } from '../src/checkpoint/safetensors-writer.ts';
import { UsageError } from '../src/errors.ts';

export interface ModelOptions {
  /** Created if missing. */
  readonly directory: string;
  /** Approximate size of the model; at least 1 MiB. */
  readonly bytes: number;
  /** Different seeds give different weights of the same shapes. */
  readonly seed: number;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

interface Shape {
  readonly name: string;
  readonly shape: readonly number[];
}

interface Dimensions {
  readonly hidden: number;
  readonly intermediate: number;
  readonly heads: number;
  readonly keyValueHeads: number;
  readonly layers: number;
  readonly vocabulary: number;
}

const headDimension = 128;
const bytesOfElement = 2;
const shardCount = 4;
/** With fewer layers, a few tensors would make up most of the model, unlike in real ones. */
const leastLayers = 12;
const chunkBytes = 4 * 2 ** 20;

/**
 * Writes a model with the file layout, tensor names and shapes of a dense Qwen3 (bf16, grouped-query attention,
 * q_norm and k_norm, untied lm_head), scaled to the wanted size, with random weights.
 */
export async function writeQwen3Model(options: ModelOptions): Promise<{ tensors: number; bytes: number }> {
  const { directory, bytes, seed, onProgress } = options;
  if (bytes < 2 ** 20) throw new UsageError(`a model of ${bytes} bytes is too small; the minimum is 1MiB`);
  const dimensions = chooseDimensions(bytes);
  const shapes = tensorsOf(dimensions);
  const totalBytes = shapes.reduce((sum, tensor) => sum + bytesOf(tensor), 0);
  await mkdir(directory, { recursive: true });
  await writeFile(join(directory, 'config.json'), `${JSON.stringify(configOf(dimensions), null, 2)}\n`);
  const weightMap: Record<string, string> = {};
  const random = new WeightSource(seed);
  let doneBytes = 0;
  for (const [number, shard] of intoShards(shapes, totalBytes).entries()) {
    const file = `model-${pad(number + 1)}-of-${pad(shardCount)}.safetensors`;
    for (const { name } of shard) weightMap[name] = file;
    await writeShard(join(directory, file), shard, random, (written) => {
      doneBytes += written;
      onProgress?.(doneBytes, totalBytes);
    });
  }
  const index = { metadata: { total_size: totalBytes }, weight_map: weightMap };
  await writeFile(join(directory, 'model.safetensors.index.json'), `${JSON.stringify(index, null, 2)}\n`);
  return { tensors: shapes.length, bytes: totalBytes };
}

/** The tensors of a model of about that size, in the order of its files. */
export function qwen3Tensors(bytes: number): readonly Shape[] {
  return tensorsOf(chooseDimensions(bytes));
}

/** The widest model that has enough layers; leftover bytes go into the vocabulary. */
function chooseDimensions(bytes: number): Dimensions {
  for (const hidden of [4096, 2048, 1024, 512, 256, 128]) {
    const heads = Math.max(4, hidden / 64);
    const base = {
      hidden,
      intermediate: hidden * 3,
      heads,
      keyValueHeads: Math.max(2, heads / 2),
      vocabulary: hidden * 16,
    };
    const sizeWith = (layers: number) =>
      tensorsOf({ ...base, layers }).reduce((sum, tensor) => sum + bytesOf(tensor), 0);
    const layerBytes = sizeWith(1) - sizeWith(0);
    const layers = Math.floor((bytes - sizeWith(0)) / layerBytes);
    if (layers < leastLayers && hidden > 128) continue;
    const kept = Math.max(layers, 1);
    const spareRows = Math.max(0, Math.floor((bytes - sizeWith(kept)) / (2 * hidden * bytesOfElement)));
    return { ...base, layers: kept, vocabulary: base.vocabulary + Math.floor(spareRows / 64) * 64 };
  }
  throw new UsageError(`no model fits into ${bytes} bytes`);
}

function tensorsOf({ hidden, intermediate, heads, keyValueHeads, layers, vocabulary }: Dimensions): Shape[] {
  const queries = heads * headDimension;
  const keys = keyValueHeads * headDimension;
  const tensors: Shape[] = [{ name: 'model.embed_tokens.weight', shape: [vocabulary, hidden] }];
  for (let layer = 0; layer < layers; layer += 1) {
    const add = (name: string, ...shape: number[]) =>
      tensors.push({ name: `model.layers.${layer}.${name}.weight`, shape });
    add('input_layernorm', hidden);
    add('self_attn.q_proj', queries, hidden);
    add('self_attn.k_proj', keys, hidden);
    add('self_attn.v_proj', keys, hidden);
    add('self_attn.o_proj', hidden, queries);
    add('self_attn.q_norm', headDimension);
    add('self_attn.k_norm', headDimension);
    add('post_attention_layernorm', hidden);
    add('mlp.gate_proj', intermediate, hidden);
    add('mlp.up_proj', intermediate, hidden);
    add('mlp.down_proj', hidden, intermediate);
  }
  tensors.push(
    { name: 'model.norm.weight', shape: [hidden] },
    { name: 'lm_head.weight', shape: [vocabulary, hidden] },
  );
  return tensors;
}

function configOf({ hidden, intermediate, heads, keyValueHeads, layers, vocabulary }: Dimensions): object {
  return {
    architectures: ['Qwen3ForCausalLM'],
    model_type: 'qwen3',
    hidden_size: hidden,
    intermediate_size: intermediate,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: keyValueHeads,
    head_dim: headDimension,
    vocab_size: vocabulary,
    tie_word_embeddings: false,
    torch_dtype: 'bfloat16',
  };
}

/** Whole tensors in order, each shard about a quarter of the model. */
function intoShards(shapes: readonly Shape[], totalBytes: number): Shape[][] {
  const shards: Shape[][] = Array.from({ length: shardCount }, () => []);
  let end = 0;
  for (const tensor of shapes) {
    const middle = end + bytesOf(tensor) / 2;
    shards[Math.min(shardCount - 1, Math.floor((middle / totalBytes) * shardCount))]!.push(tensor);
    end += bytesOf(tensor);
  }
  return shards;
}

async function writeShard(
  path: string,
  shapes: readonly Shape[],
  random: WeightSource,
  onWritten: (bytes: number) => void,
): Promise<void> {
  const tensors = shapes.map(({ name, shape }) => ({ name, dtype: 'BF16', shape: [...shape] }));
  const { header, offsets } = encodeHeader(tensors, new Map([['format', 'pt']]));
  const file = await open(path, 'w');
  try {
    await file.write(header, 0, header.byteLength, 0);
    for (const [index, tensor] of shapes.entries()) {
      const bytes = bytesOf(tensor);
      for (let done = 0; done < bytes; done += chunkBytes) {
        const chunk = random.next(Math.min(chunkBytes, bytes - done));
        await file.write(chunk, 0, chunk.byteLength, offsets[index]! + done);
        onWritten(chunk.byteLength);
      }
    }
  } finally {
    await file.close();
  }
}

/** Sign and mantissa bits of two bf16 numbers vary; the exponents stay those of small weights. */
const varyingBits = 0x80ff_80ff;
const smallExponents = 0x3c00_3c00;

/** Generates random bf16 weights at memory speed: one random block, XORed with a different number for each chunk. */
class WeightSource {
  readonly #block = new Uint32Array(chunkBytes / 4);
  readonly #chunk = new Uint32Array(chunkBytes / 4);
  #state: number;

  constructor(seed: number) {
    this.#state = (seed ^ 0x9e37_79b9) >>> 0 || 1;
    for (let word = 0; word < this.#block.length; word += 1) this.#block[word] = this.#random();
  }

  /** Valid until the next call. */
  next(bytes: number): Uint8Array {
    const salt = this.#random();
    const words = Math.ceil(bytes / 4);
    for (let word = 0; word < words; word += 1) {
      this.#chunk[word] = ((this.#block[word]! ^ salt) & varyingBits) | smallExponents;
    }
    return new Uint8Array(this.#chunk.buffer, 0, bytes);
  }

  /** xorshift32. */
  #random(): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state >>> 0;
    return this.#state;
  }
}

function bytesOf({ shape }: Shape): number {
  return shape.reduce((product, dimension) => product * dimension, bytesOfElement);
}

function pad(number: number): string {
  return String(number).padStart(5, '0');
}
