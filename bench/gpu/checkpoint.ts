import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { encodeHeader } from '../../src/checkpoint/safetensors-writer.ts';
import { Mapping, type ThreadPool } from '../../src/native-bridge/memory.ts';

/** Sizes of a decoder layer of nine tensors. `usualLayer` is Qwen3-8B's, 386 MB in BF16. */
export interface LayerSize {
  readonly hidden: number;
  readonly keyValue: number;
  readonly intermediate: number;
}
export const usualLayer: LayerSize = { hidden: 4096, keyValue: 1024, intermediate: 12_288 };

/** 1.2 MB. */
export const smallLayer: LayerSize = { hidden: 256, keyValue: 64, intermediate: 640 };

export function layerTensors(layer: number, { hidden, keyValue, intermediate }: LayerSize) {
  const shapes: Record<string, readonly number[]> = {
    'input_layernorm.weight': [hidden],
    'self_attn.q_proj.weight': [hidden, hidden],
    'self_attn.k_proj.weight': [keyValue, hidden],
    'self_attn.v_proj.weight': [keyValue, hidden],
    'self_attn.o_proj.weight': [hidden, hidden],
    'post_attention_layernorm.weight': [hidden],
    'mlp.gate_proj.weight': [intermediate, hidden],
    'mlp.up_proj.weight': [intermediate, hidden],
    'mlp.down_proj.weight': [hidden, intermediate],
  };
  return Object.entries(shapes).map(([name, shape]) => ({
    name: `model.layers.${layer}.${name}`,
    dtype: 'BF16',
    shape,
  }));
}

const blockBytes = 32 * 2 ** 20;

/** Safetensors files of random weights in shared memory, one per layer. */
export class LayerFiles {
  readonly paths: readonly string[];
  readonly bytes: number;
  readonly #directory: string;
  /** For direct uploads by the benchmark. */
  readonly mappings: readonly Mapping[];

  private constructor(directory: string, mappings: readonly Mapping[]) {
    this.#directory = directory;
    this.mappings = mappings;
    this.paths = mappings.map(({ path }) => path);
    this.bytes = mappings.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  static async write(
    directory: string,
    layers: number,
    size: LayerSize,
    pool: ThreadPool,
  ): Promise<LayerFiles> {
    if (!existsSync(directory)) mkdirSync(directory);
    const block = randomBytes(blockBytes);
    const mappings: Mapping[] = [];
    for (let layer = 0; layer < layers; layer += 1) {
      const { header, totalBytes } = encodeHeader(layerTensors(layer, size));
      const mapping = Mapping.create(join(directory, `layer-${layer}.safetensors`), totalBytes);
      const copies: Promise<unknown>[] = [pool.copyIn(header, mapping, 0)];
      // Each copy starts at a random offset in the block, so that no two tensors are equal.
      for (let at = header.length; at < totalBytes; ) {
        const from = (Math.floor(Math.random() * blockBytes) / 2) & ~7;
        const data = block.subarray(from, Math.min(blockBytes, from + totalBytes - at));
        copies.push(pool.copyIn(data, mapping, at));
        at += data.length;
      }
      await Promise.all(copies);
      mappings.push(mapping);
    }
    return new LayerFiles(directory, mappings);
  }

  remove(): void {
    for (const mapping of this.mappings) mapping.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
