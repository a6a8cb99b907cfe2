import type { ListedTensor } from '../tensor-lists.ts';

/** The values of a model's config.json that determine its tensors: grouped-query attention and routed experts, in BF16. */
interface ModelConfig {
  readonly layers: number;
  /** The first of them, without experts. */
  readonly denseLayers: number;
  readonly hidden: number;
  readonly vocabulary: number;
  readonly heads: number;
  readonly keyValueHeads: number;
  readonly headSize: number;
  readonly denseIntermediate: number;
  readonly expertIntermediate: number;
  readonly experts: number;
  readonly hasSharedExpert: boolean;
  /** The router adds a bias to the scores of experts. */
  readonly hasRouterBias: boolean;
  /** Of the projections of queries, keys and values. */
  readonly hasAttentionBias: boolean;
  /** Queries and keys are normed by head. */
  readonly hasHeadNorms: boolean;
  readonly hasPredictionLayer: boolean;
}

const models = {
  'glm-4.5-air-bf16': {
    layers: 46,
    denseLayers: 1,
    hidden: 4096,
    vocabulary: 151_552,
    heads: 96,
    keyValueHeads: 8,
    headSize: 128,
    denseIntermediate: 10_944,
    expertIntermediate: 1408,
    experts: 128,
    hasSharedExpert: true,
    hasRouterBias: true,
    hasAttentionBias: true,
    hasHeadNorms: false,
    hasPredictionLayer: true,
  },
  'qwen3-235b-a22b-bf16': {
    layers: 94,
    denseLayers: 0,
    hidden: 4096,
    vocabulary: 151_936,
    heads: 64,
    keyValueHeads: 4,
    headSize: 128,
    denseIntermediate: 12_288,
    expertIntermediate: 1536,
    experts: 128,
    hasSharedExpert: false,
    hasRouterBias: false,
    hasAttentionBias: false,
    hasHeadNorms: true,
    hasPredictionLayer: false,
  },
} as const satisfies Record<string, ModelConfig>;

export type GroupedQueryModel = keyof typeof models;

/** Names, dtypes and shapes as the published safetensors files list them. */
export function groupedQueryTensors(model: GroupedQueryModel): ListedTensor[] {
  const config: ModelConfig = models[model];
  const { layers, hidden, vocabulary, hasPredictionLayer } = config;
  const weight = (name: string, shape: readonly number[], dtype = 'BF16') => ({ name, dtype, shape });
  const prediction = `model.layers.${layers}`;
  return [
    weight('model.embed_tokens.weight', [vocabulary, hidden]),
    ...Array.from({ length: layers }, (_, layer) => layerTensors(config, layer)).flat(),
    ...(hasPredictionLayer
      ? [
          ...layerTensors(config, layers),
          weight(`${prediction}.eh_proj.weight`, [hidden, 2 * hidden]),
          ...['enorm', 'hnorm', 'shared_head.norm'].map((name) =>
            weight(`${prediction}.${name}.weight`, [hidden]),
          ),
          weight(`${prediction}.embed_tokens.weight`, [vocabulary, hidden]),
          weight(`${prediction}.shared_head.head.weight`, [vocabulary, hidden]),
        ]
      : []),
    weight('model.norm.weight', [hidden]),
    weight('lm_head.weight', [vocabulary, hidden]),
  ];
}

function layerTensors(config: ModelConfig, layer: number): ListedTensor[] {
  const { hidden, denseLayers, denseIntermediate, expertIntermediate, experts } = config;
  const prefix = `model.layers.${layer}`;
  const norms = ['input_layernorm', 'post_attention_layernorm'].map((name) => {
    return { name: `${prefix}.${name}.weight`, dtype: 'BF16', shape: [hidden] };
  });
  const attention = attentionTensors(config, `${prefix}.self_attn`);
  if (layer < denseLayers)
    return [...norms, ...attention, ...feedForward(`${prefix}.mlp`, hidden, denseIntermediate)];
  const router = [
    { name: `${prefix}.mlp.gate.weight`, dtype: 'BF16', shape: [experts, hidden] },
    ...(config.hasRouterBias
      ? [{ name: `${prefix}.mlp.gate.e_score_correction_bias`, dtype: 'F32', shape: [experts] }]
      : []),
  ];
  const routed = Array.from({ length: experts }, (_, expert) =>
    feedForward(`${prefix}.mlp.experts.${expert}`, hidden, expertIntermediate),
  ).flat();
  const shared = config.hasSharedExpert
    ? feedForward(`${prefix}.mlp.shared_experts`, hidden, expertIntermediate)
    : [];
  return [...norms, ...attention, ...router, ...routed, ...shared];
}

function attentionTensors(config: ModelConfig, prefix: string): ListedTensor[] {
  const { hidden, heads, keyValueHeads, headSize } = config;
  const sizes = { q: heads * headSize, k: keyValueHeads * headSize, v: keyValueHeads * headSize };
  const projections = Object.entries(sizes).flatMap(([name, size]) => [
    { name: `${prefix}.${name}_proj.weight`, dtype: 'BF16', shape: [size, hidden] },
    ...(config.hasAttentionBias
      ? [{ name: `${prefix}.${name}_proj.bias`, dtype: 'BF16', shape: [size] }]
      : []),
  ]);
  const headNorms = config.hasHeadNorms ? ['q', 'k'] : [];
  return [
    ...projections,
    { name: `${prefix}.o_proj.weight`, dtype: 'BF16', shape: [hidden, heads * headSize] },
    ...headNorms.map((name) => ({ name: `${prefix}.${name}_norm.weight`, dtype: 'BF16', shape: [headSize] })),
  ];
}

function feedForward(prefix: string, hidden: number, intermediate: number): ListedTensor[] {
  return [
    { name: `${prefix}.gate_proj.weight`, dtype: 'BF16', shape: [intermediate, hidden] },
    { name: `${prefix}.up_proj.weight`, dtype: 'BF16', shape: [intermediate, hidden] },
    { name: `${prefix}.down_proj.weight`, dtype: 'BF16', shape: [hidden, intermediate] },
  ];
}
