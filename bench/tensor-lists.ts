import { bytesOf, DTYPES, dtypeIndex } from '../src/checkpoint/dtype.ts';

/** A tensor of a published model, as listed in its safetensors index and headers. */
export interface ListedTensor {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
}

/** The values of a model's config.json that determine its tensors. All models here share DeepSeek-V3's architecture. */
interface ModelConfig {
  readonly layers: number;
  readonly denseLayers: number;
  readonly hidden: number;
  readonly vocabulary: number;
  readonly heads: number;
  readonly queryRank: number;
  readonly keyValueRank: number;
  readonly ropeHead: number;
  readonly plainHead: number;
  readonly valueHead: number;
  readonly denseIntermediate: number;
  readonly expertIntermediate: number;
  readonly experts: number;
  readonly multiTokenPrediction: boolean;
  /** Of linear layers: F8_E4M3 with an F32 scale per 128 × 128 block, or BF16. */
  readonly weights: 'fp8' | 'bf16';
  /**
   * Of routed experts, where they differ: compressed-tensors' packed INT4, eight weights an I32, with a BF16 scale for each 32
   * of a row and the shape beside it.
   */
  readonly expertWeights?: 'int4';
}

type Weights = ModelConfig['weights'] | 'int4';

const deepSeekV31: ModelConfig = {
  layers: 61,
  denseLayers: 3,
  hidden: 7168,
  vocabulary: 129_280,
  heads: 128,
  queryRank: 1536,
  keyValueRank: 512,
  ropeHead: 64,
  plainHead: 128,
  valueHead: 128,
  denseIntermediate: 18_432,
  expertIntermediate: 2048,
  experts: 256,
  multiTokenPrediction: true,
  weights: 'fp8',
};

const kimiK2: ModelConfig = {
  ...deepSeekV31,
  denseLayers: 1,
  vocabulary: 163_840,
  heads: 64,
  experts: 384,
  multiTokenPrediction: false,
};

export type ModelName = keyof typeof models;

/**
 * Kimi-K2 in three forms: as published, in FP8 with a scale for each weight; in BF16 with the same parameters, as a trainer
 * holds them, which is the list of about 70,000 tensors; and with experts in INT4, as Kimi-K2-Thinking: 208,000 tensors.
 */
const models = {
  'kimi-k2-bf16': { ...kimiK2, weights: 'bf16' },
  'kimi-k2-fp8': kimiK2,
  'deepseek-v3.1-fp8': deepSeekV31,
  'kimi-k2-int4': { ...kimiK2, weights: 'bf16', expertWeights: 'int4' },
} satisfies Record<string, ModelConfig>;

export const modelNames = Object.keys(models) as ModelName[];

export function tensorList(model: ModelName): ListedTensor[] {
  return new TensorList(models[model]).build();
}

export function bytesOfTensor({ dtype, shape }: ListedTensor): number {
  return bytesOf(DTYPES[dtypeIndex(dtype)]!, shape);
}

class TensorList {
  readonly #config: ModelConfig;
  readonly #tensors: ListedTensor[] = [];

  constructor(config: ModelConfig) {
    this.#config = config;
  }

  build(): ListedTensor[] {
    const { layers, denseLayers, hidden, vocabulary, experts, multiTokenPrediction } = this.#config;
    this.#plain('model.embed_tokens.weight', [vocabulary, hidden]);
    for (let layer = 0; layer < layers; layer += 1) this.#layer(layer, layer < denseLayers ? 0 : experts);
    if (multiTokenPrediction) this.#predictionLayer(layers, experts);
    this.#plain('model.norm.weight', [hidden]);
    this.#plain('lm_head.weight', [vocabulary, hidden]);
    return this.#tensors;
  }

  #layer(layer: number, experts: number): void {
    const { hidden, denseIntermediate, expertIntermediate } = this.#config;
    const prefix = `model.layers.${layer}`;
    this.#plain(`${prefix}.input_layernorm.weight`, [hidden]);
    this.#attention(`${prefix}.self_attn`);
    this.#plain(`${prefix}.post_attention_layernorm.weight`, [hidden]);
    if (experts === 0) {
      this.#feedForward(`${prefix}.mlp`, denseIntermediate);
      return;
    }
    this.#plain(`${prefix}.mlp.gate.weight`, [experts, hidden]);
    this.#plain(`${prefix}.mlp.gate.e_score_correction_bias`, [experts], 'F32');
    for (let expert = 0; expert < experts; expert += 1) {
      this.#feedForward(`${prefix}.mlp.experts.${expert}`, expertIntermediate, this.#config.expertWeights);
    }
    this.#feedForward(`${prefix}.mlp.shared_experts`, expertIntermediate);
  }

  #predictionLayer(layer: number, experts: number): void {
    const { hidden, vocabulary } = this.#config;
    const prefix = `model.layers.${layer}`;
    this.#plain(`${prefix}.embed_tokens.weight`, [vocabulary, hidden]);
    this.#plain(`${prefix}.enorm.weight`, [hidden]);
    this.#plain(`${prefix}.hnorm.weight`, [hidden]);
    this.#plain(`${prefix}.eh_proj.weight`, [hidden, 2 * hidden]);
    this.#layer(layer, experts);
    this.#plain(`${prefix}.shared_head.norm.weight`, [hidden]);
    this.#plain(`${prefix}.shared_head.head.weight`, [vocabulary, hidden]);
  }

  #attention(prefix: string): void {
    const { hidden, heads, queryRank, keyValueRank, ropeHead, plainHead, valueHead } = this.#config;
    this.#linear(`${prefix}.q_a_proj`, [queryRank, hidden]);
    this.#plain(`${prefix}.q_a_layernorm.weight`, [queryRank]);
    this.#linear(`${prefix}.q_b_proj`, [heads * (plainHead + ropeHead), queryRank]);
    this.#linear(`${prefix}.kv_a_proj_with_mqa`, [keyValueRank + ropeHead, hidden]);
    this.#plain(`${prefix}.kv_a_layernorm.weight`, [keyValueRank]);
    this.#linear(`${prefix}.kv_b_proj`, [heads * (plainHead + valueHead), keyValueRank]);
    this.#linear(`${prefix}.o_proj`, [hidden, heads * valueHead]);
  }

  #feedForward(prefix: string, intermediate: number, weights: Weights = this.#config.weights): void {
    const { hidden } = this.#config;
    this.#linear(`${prefix}.gate_proj`, [intermediate, hidden], weights);
    this.#linear(`${prefix}.up_proj`, [intermediate, hidden], weights);
    this.#linear(`${prefix}.down_proj`, [hidden, intermediate], weights);
  }

  #linear(prefix: string, shape: readonly [number, number], weights: Weights = this.#config.weights): void {
    if (weights === 'int4') {
      const [rows, columns] = shape;
      this.#plain(`${prefix}.weight_packed`, [rows, columns / 8], 'I32');
      this.#plain(`${prefix}.weight_scale`, [rows, columns / 32]);
      this.#plain(`${prefix}.weight_shape`, [2], 'I32');
      return;
    }
    this.#plain(`${prefix}.weight`, shape, weights === 'fp8' ? 'F8_E4M3' : 'BF16');
    if (weights === 'bf16') return;
    const blocks = shape.map((size) => Math.ceil(size / 128));
    this.#plain(`${prefix}.weight_scale_inv`, blocks, 'F32');
  }

  #plain(name: string, shape: readonly number[], dtype = 'BF16'): void {
    this.#tensors.push({ name, dtype, shape });
  }
}
