/** Of models.py. */
export type Family =
  | 'dense'
  | 'large'
  | 'tied'
  | 'experts'
  | 'latent'
  | 'dense-fp8'
  | 'experts-fp8'
  | 'latent-fp8'
  | 'gate-without-scale-fp8';

export interface RowSettings {
  readonly name: string;
  readonly title: string;
  readonly family: Family;
  /** More of vLLM's options. */
  readonly options?: readonly string[];
  /** How the engine takes weights. Default: `extension`. The last is checkpoint-engine's own extension, over its link. */
  readonly face?: 'extension' | 'transfer engine' | 'checkpoint-engine';
  /** Of an engine, by tensor parallelism. Default: 1. */
  readonly gpus?: number;
  /** Updated although quantised experts are not known to answer rightly, and no baseline is given. Default: false. */
  readonly acceptUnproven?: boolean;
}

const eager = ['--enforce-eager'];
/** Graphs of vLLM's own kernels: those that torch.compile chooses by measuring them differ from start to start. */
const graphs = ['--compilation-config', '{"backend": "eager"}'];
const onlineFp8 = ['--quantization', 'fp8'];
/** All-reduces through NCCL: which of vLLM's own kernels it takes depends on how the GPUs are linked. */
const split = ['--tensor-parallel-size', '2', '--disable-custom-all-reduce'];
/** A draft has an attention backend of its own, by default another one than the target's is here. */
const drafting = [
  '--speculative-config',
  '{"method": "mtp", "num_speculative_tokens": 1, "attention_backend": "TRITON_MLA"}',
];

/** A kind of model in the ways of running it: eagerly, with CUDA graphs, and with CUDA graphs of compiled kernels. */
function ways(
  model: Omit<RowSettings, 'options'>,
  run: readonly ('eager' | 'graphs' | 'compiled')[],
  options: readonly string[] = [],
): RowSettings[] {
  const { name, title } = model;
  const all = {
    eager: { name: `${name}-eager`, title: `${title}, eager`, options: [...options, ...eager] },
    graphs: { name, title: `${title}, CUDA graphs`, options: [...options, ...graphs] },
    compiled: { name: `${name}-compiled`, title: `${title}, CUDA graphs, torch.compile`, options },
  };
  return run.map((way) => ({ ...model, ...all[way] }));
}

const bf16Files = 'BF16 files, `--quantization fp8`';
const deepseek = 'MLA and experts (DeepSeek-V3)';
const everyWay = ['eager', 'graphs', 'compiled'] as const;

export const rows: readonly RowSettings[] = [
  ...ways({ name: 'fp8-dense', title: 'FP8 blocks, dense', family: 'dense-fp8' }, everyWay),
  ...ways(
    { name: 'fp8-experts', title: 'FP8 blocks, experts', family: 'experts-fp8', acceptUnproven: true },
    everyWay,
  ),
  ...ways(
    { name: 'fp8-latent', title: `FP8 blocks, ${deepseek}`, family: 'latent-fp8', acceptUnproven: true },
    ['eager', 'graphs'],
  ),
  ...ways(
    { name: 'online-fp8', title: `${bf16Files}, dense`, family: 'dense' },
    ['graphs', 'compiled'],
    onlineFp8,
  ),
  ...ways(
    { name: 'online-fp8-experts', title: `${bf16Files}, experts`, family: 'experts', acceptUnproven: true },
    ['eager', 'graphs'],
    onlineFp8,
  ),
  ...ways(
    {
      name: 'fp8-gate-without-scale',
      title: 'FP8 blocks, experts, files without scales for the gate',
      family: 'gate-without-scale-fp8',
      acceptUnproven: true,
    },
    ['eager'],
  ),
  ...ways({ name: 'bf16-dense', title: 'BF16, dense', family: 'dense' }, ['graphs', 'compiled']),
  ...ways({ name: 'bf16-experts', title: 'BF16, experts', family: 'experts' }, everyWay),
  ...ways({ name: 'bf16-tied', title: 'BF16, dense, tied embeddings', family: 'tied' }, everyWay),
  ...ways({ name: 'bf16-latent', title: `BF16, ${deepseek}`, family: 'latent' }, ['graphs']),
  ...ways(
    { name: 'bf16-latent-draft', title: `BF16, ${deepseek}, MTP drafts`, family: 'latent' },
    ['eager', 'graphs'],
    drafting,
  ),
  ...ways(
    { name: 'fp8-dense-split', title: 'FP8 blocks, dense, 2 GPUs', family: 'dense-fp8', gpus: 2 },
    ['graphs'],
    split,
  ),
  ...ways(
    {
      name: 'fp8-experts-split',
      title: 'FP8 blocks, experts, 2 GPUs',
      family: 'experts-fp8',
      gpus: 2,
      acceptUnproven: true,
    },
    ['graphs'],
    split,
  ),
  ...ways(
    { name: 'bf16-dense-split', title: 'BF16, dense, 2 GPUs', family: 'dense', gpus: 2 },
    ['graphs'],
    split,
  ),
  ...ways({ name: 'bf16-dense-original', title: 'BF16, dense', family: 'dense', face: 'checkpoint-engine' }, [
    'graphs',
  ]),
  ...ways({ name: 'bf16-dense-session', title: 'BF16, dense', family: 'dense', face: 'transfer engine' }, [
    'graphs',
  ]),
];
