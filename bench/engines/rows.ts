/** Of models.py. */
export type Family =
  | 'dense'
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
  /** How the engine takes weights. Default: `extension`. */
  readonly face?: 'extension' | 'transfer engine';
}

const eager = ['--enforce-eager'];
const onlineFp8 = ['--quantization', 'fp8'];
const drafting = ['--speculative-config', '{"method": "mtp", "num_speculative_tokens": 1}'];

export const rows: readonly RowSettings[] = [
  { name: 'fp8-dense', title: 'FP8 blocks, dense, CUDA graphs', family: 'dense-fp8' },
  { name: 'fp8-dense-eager', title: 'FP8 blocks, dense, eager', family: 'dense-fp8', options: eager },
  { name: 'fp8-experts', title: 'FP8 blocks, experts, CUDA graphs', family: 'experts-fp8' },
  { name: 'fp8-experts-eager', title: 'FP8 blocks, experts, eager', family: 'experts-fp8', options: eager },
  {
    name: 'fp8-latent',
    title: 'FP8 blocks, MLA and experts (DeepSeek-V3), CUDA graphs',
    family: 'latent-fp8',
  },
  {
    name: 'fp8-latent-eager',
    title: 'FP8 blocks, MLA and experts (DeepSeek-V3), eager',
    family: 'latent-fp8',
    options: eager,
  },
  {
    name: 'online-fp8',
    title: 'BF16 files, `--quantization fp8`, dense, CUDA graphs',
    family: 'dense',
    options: onlineFp8,
  },
  {
    name: 'online-fp8-experts',
    title: 'BF16 files, `--quantization fp8`, experts, CUDA graphs',
    family: 'experts',
    options: onlineFp8,
  },
  {
    name: 'online-fp8-experts-eager',
    title: 'BF16 files, `--quantization fp8`, experts, eager',
    family: 'experts',
    options: [...onlineFp8, ...eager],
  },
  {
    name: 'fp8-gate-without-scale',
    title: 'FP8 blocks, experts, files without scales for the gate, eager',
    family: 'gate-without-scale-fp8',
    options: eager,
  },
  { name: 'bf16-dense', title: 'BF16, dense, CUDA graphs', family: 'dense' },
  { name: 'bf16-experts', title: 'BF16, experts, CUDA graphs', family: 'experts' },
  { name: 'bf16-tied', title: 'BF16, dense, tied embeddings, CUDA graphs', family: 'tied' },
  { name: 'bf16-tied-eager', title: 'BF16, dense, tied embeddings, eager', family: 'tied', options: eager },
  { name: 'bf16-latent', title: 'BF16, MLA and experts (DeepSeek-V3), CUDA graphs', family: 'latent' },
  {
    name: 'bf16-latent-draft',
    title: 'BF16, MLA and experts (DeepSeek-V3), MTP drafts, CUDA graphs',
    family: 'latent',
    options: drafting,
  },
  {
    name: 'bf16-dense-session',
    title: 'BF16, dense, CUDA graphs',
    family: 'dense',
    face: 'transfer engine',
  },
];
