import { type Manifest, mergeManifests } from '../../src/checkpoint/manifest.ts';
import { assignFiles } from '../../src/plan/load-assignment.ts';
import { shareTensors } from '../../src/plan/tensor-shares.ts';
import { indexOf } from './indices.ts';
import { manifestOf, type Row, segmentOf } from './manifests.ts';

/** Names and bytes of a model's tensors, as their files list them. */
export type Listed = readonly { readonly name: string; readonly bytes: number }[];

export interface MlaShape {
  readonly layers: number;
  readonly denseLayers: number;
  readonly experts: number;
  readonly hidden: number;
  readonly vocabulary: number;
  readonly expertIntermediate: number;
  readonly denseIntermediate: number;
  readonly heads: number;
}

export const deepSeekV3: MlaShape = {
  layers: 61,
  denseLayers: 3,
  experts: 256,
  hidden: 7168,
  vocabulary: 129_280,
  expertIntermediate: 2048,
  denseIntermediate: 18_432,
  heads: 128,
};

/** As DeepSeek V3 and Kimi K2 are saved: block-scaled FP8, the names of a layer in alphabetical order. */
export function mlaTensors(shape: MlaShape): Listed {
  const { hidden, heads, vocabulary } = shape;
  const listed: { name: string; bytes: number }[] = [];
  const plain = (name: string, bytes: number) => listed.push({ name, bytes });
  const scaled = (name: string, rows: number, columns: number) => {
    plain(`${name}.weight`, rows * columns);
    plain(`${name}.weight_scale_inv`, 4 * Math.ceil(rows / 128) * Math.ceil(columns / 128));
  };
  const feedForward = (name: string, intermediate: number) => {
    scaled(`${name}.down_proj`, hidden, intermediate);
    scaled(`${name}.gate_proj`, intermediate, hidden);
    scaled(`${name}.up_proj`, intermediate, hidden);
  };
  plain('model.embed_tokens.weight', 2 * vocabulary * hidden);
  for (let layer = 0; layer < shape.layers; layer += 1) {
    const prefix = `model.layers.${layer}`;
    plain(`${prefix}.input_layernorm.weight`, 2 * hidden);
    if (layer < shape.denseLayers) {
      feedForward(`${prefix}.mlp`, shape.denseIntermediate);
    } else {
      for (let expert = 0; expert < shape.experts; expert += 1)
        feedForward(`${prefix}.mlp.experts.${expert}`, shape.expertIntermediate);
      plain(`${prefix}.mlp.gate.weight`, 2 * shape.experts * hidden);
      feedForward(`${prefix}.mlp.shared_experts`, shape.expertIntermediate);
    }
    plain(`${prefix}.post_attention_layernorm.weight`, 2 * hidden);
    plain(`${prefix}.self_attn.kv_a_layernorm.weight`, 2 * 512);
    scaled(`${prefix}.self_attn.kv_a_proj_with_mqa`, 576, hidden);
    scaled(`${prefix}.self_attn.kv_b_proj`, heads * 256, 512);
    scaled(`${prefix}.self_attn.o_proj`, hidden, heads * 128);
    plain(`${prefix}.self_attn.q_a_layernorm.weight`, 2 * 1536);
    scaled(`${prefix}.self_attn.q_a_proj`, 1536, hidden);
    scaled(`${prefix}.self_attn.q_b_proj`, heads * 192, 1536);
  }
  plain('lm_head.weight', 2 * vocabulary * hidden);
  plain('model.norm.weight', 2 * hidden);
  return listed;
}

/** Loaded from one file by the ranks `0 …` of a host. */
export function loadedFromFile(listed: Listed, ranks: number): Manifest {
  const index = {
    ...indexOf([{ tensors: listed.map(({ bytes }) => bytes) }]),
    names: listed.map(({ name }) => name),
  };
  const { shares } = assignFiles({
    checkpoint: 'c',
    index,
    identitiesOf: new Map([['a', ['1:0:0:0:0:header']]]),
    segmentName: 's',
    ranks: Array.from({ length: ranks }, (_, rank) => ({ rank, host: 'a', directory: '/dev/shm/w' })),
    spare: [],
  });
  return mergeManifests(shares.map(({ manifest }) => manifest));
}

/** Written by the ranks `0 …` of each host as tensors in memory are: a contiguous run each, even by bytes. */
export function loadedBy(listed: Listed, hostOfRank: readonly string[]) {
  const sizes = Float64Array.from(listed, ({ bytes }) => bytes);
  const rows: Row[] = [];
  const segments = shareTensors(sizes, [...hostOfRank.keys()]).map(({ rank, tensors }, segment) => {
    let offset = 0;
    for (const { name, bytes } of listed.slice(rows.length, rows.length + tensors)) {
      rows.push({ name, bytes, segment, offset });
      offset += Math.ceil(Math.max(bytes, 1) / 256) * 256;
    }
    return segmentOf(rank, hostOfRank[rank]!, offset);
  });
  return manifestOf(rows, segments);
}
