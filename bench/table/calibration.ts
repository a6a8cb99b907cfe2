import { readFileSync } from 'node:fs';
import { packageRoot } from '../../src/package-root.ts';
import type { Figure } from '../report.ts';
import type { ListedTensor } from '../tensor-lists.ts';
import { streamMilliseconds } from './pipeline.ts';
import { membersOf, planCluster } from './planned.ts';
import { measured, type Speeds } from './speeds.ts';

/** A run that exists: the file of bench/results that has it, and how its figures begin. */
interface Run {
  readonly file: string;
  readonly name: string;
  readonly gpus: number;
  readonly speeds?: Partial<Speeds>;
}

/** Copies go at the rate of collective.md, and their end is told and not polled. */
const copies = { broadcast: 246e6, broadcastStart: 0.02, notice: 0.1 };

const runs: readonly Run[] = [
  { file: 'gpu', name: '1 rank, our worker', gpus: 1 },
  { file: 'gpu-h100', name: '1 rank, our worker', gpus: 1 },
  { file: 'gpu-h100', name: '2 ranks on 2 GPUs, nccl', gpus: 2 },
  { file: 'gpu-h100', name: '2 ranks on 2 GPUs, copies', gpus: 2, speeds: copies },
];

/** 42 decoder layers of Qwen3-8B's sizes, as bench/gpu/checkpoint.ts writes them. */
function benchedModel(): ListedTensor[] {
  const [hidden, keyValue, intermediate] = [4096, 1024, 12_288];
  const shapes: Readonly<Record<string, readonly number[]>> = {
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
  return Array.from({ length: 42 }, (_, layer) =>
    Object.entries(shapes).map(([name, shape]) => ({
      name: `model.layers.${layer}.${name}`,
      dtype: 'BF16',
      shape,
    })),
  ).flat();
}

export interface Calibrated {
  readonly name: string;
  /** Milliseconds. */
  readonly simulated: number;
  readonly measured: number;
}

/** Streaming and whole updates of the runs that exist, at the pinned H2D rate that each of them measured itself. */
export function calibrations(): Calibrated[] {
  const model = benchedModel();
  return runs.flatMap(({ file, name, gpus, speeds }) => {
    const path = new URL(`bench/results/${file}.json`, packageRoot);
    const { figures } = JSON.parse(readFileSync(path, 'utf8')) as { readonly figures: readonly Figure[] };
    const of = (what: string) => figures.find((figure) => figure.name === `${name}: ${what}`)!.value;
    const members = membersOf(gpus, gpus);
    const { plan } = planCluster(model, members);
    const all = { ...measured, upload: (of('pinned H2D') * 1e6) / gpus, ...speeds };
    const stream = streamMilliseconds({ plan, speeds: all, hostOf: () => 'node-0' });
    const label = `${name} (${file}.md)`;
    return [
      { name: `${label}, streaming`, simulated: stream, measured: of('first upload to last answer') },
      { name: `${label}, whole update`, simulated: stream + all.fixed, measured: of('all') },
    ];
  });
}
