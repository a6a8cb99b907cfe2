import { writeFileSync } from 'node:fs';
import { encodeHeader, type TensorDescription } from '../../src/checkpoint/safetensors-writer.ts';
import type { SeededRandom } from '../plan/seeded-random.ts';

/** A small layer of each kind: attention with two key-value heads, an MLP, experts, FP8 with scales, FP4. */
export const tensors: readonly TensorDescription[] = [
  bf16('model.embed_tokens.weight', 64, 24),
  bf16('model.layers.0.input_layernorm.weight', 24),
  bf16('model.layers.0.self_attn.q_proj.weight', 32, 24),
  bf16('model.layers.0.self_attn.k_proj.weight', 16, 24),
  bf16('model.layers.0.self_attn.v_proj.weight', 16, 24),
  bf16('model.layers.0.self_attn.q_proj.bias', 32),
  bf16('model.layers.0.self_attn.k_proj.bias', 16),
  bf16('model.layers.0.self_attn.v_proj.bias', 16),
  bf16('model.layers.0.self_attn.o_proj.weight', 24, 32),
  { name: 'model.layers.0.mlp.gate_proj.weight', dtype: 'F8_E4M3', shape: [40, 24] },
  { name: 'model.layers.0.mlp.up_proj.weight', dtype: 'F8_E4M3', shape: [40, 24] },
  { name: 'model.layers.0.mlp.down_proj.weight', dtype: 'F8_E4M3', shape: [24, 40] },
  { name: 'model.layers.0.mlp.gate_proj.weight_scale_inv', dtype: 'F32', shape: [4, 3] },
  { name: 'model.layers.0.mlp.up_proj.weight_scale_inv', dtype: 'F32', shape: [4, 3] },
  { name: 'model.layers.0.mlp.down_proj.weight_scale_inv', dtype: 'F32', shape: [3, 4] },
  ...[0, 1, 10, 2].flatMap((expert) => [
    bf16(`model.layers.1.mlp.experts.${expert}.gate_proj.weight`, 8, 24),
    bf16(`model.layers.1.mlp.experts.${expert}.up_proj.weight`, 8, 24),
    bf16(`model.layers.1.mlp.experts.${expert}.down_proj.weight`, 24, 8),
  ]),
  { name: 'model.layers.1.extra.up_proj.weight', dtype: 'F4', shape: [8, 6] },
  { name: 'model.layers.1.extra.down_proj.weight', dtype: 'F4', shape: [8, 4] },
  { name: 'model.layers.1.nothing', dtype: 'I64', shape: [0, 3] },
  { name: 'model.step', dtype: 'I64', shape: [] },
  bf16('lm_head.weight', 63, 24),
];

/** A safetensors file of {@link tensors} with random bytes. */
export function writeRandomModel(path: string, random: SeededRandom): void {
  const { header, totalBytes } = encodeHeader(tensors);
  const file = new Uint8Array(totalBytes);
  for (let at = 0; at < totalBytes; at += 1) file[at] = random.whole(0, 255);
  file.set(header);
  writeFileSync(path, file);
}

function bf16(name: string, ...shape: number[]): TensorDescription {
  return { name, dtype: 'BF16', shape };
}
