import type { Family } from './rows.ts';

/** For vLLM's environment: kernels that need no compiler of their own, and no memory that GPUs share by multicast. */
export const plainKernels = {
  VLLM_USE_DEEP_GEMM: '0',
  VLLM_USE_FLASHINFER_SAMPLER: '0',
  VLLM_ALLREDUCE_USE_SYMM_MEM: '0',
} as const;

export function attentionOptions(family: Family): readonly string[] {
  return ['--attention-backend', family.startsWith('latent') ? 'TRITON_MLA' : 'TRITON_ATTN'];
}
