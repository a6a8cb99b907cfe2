import { addon, type CudaProbe } from './addon.ts';
import { callNative } from './call.ts';

/** What this machine has, asked without taking any of it. */

/**
 * What the CUDA driver sees, in the order of the devices' indices. Throws `NativeError`, which says what to do, where
 * there is no driver, an old one, or no GPU.
 */
export function probeCuda(): CudaProbe {
  return callNative(() => addon.probeCuda());
}

/**
 * Version of the NCCL that WEIGHTCAST_NCCL names, or else the dynamic linker finds (LD_LIBRARY_PATH counts), as NCCL
 * numbers it: 10000 * major + 100 * minor + patch. Throws `NativeError` with the linker's words.
 */
export function ncclVersion(): number {
  return callNative(() => addon.ncclVersion());
}

/** Why a shared library is not loaded, in the dynamic linker's words; null if it is. */
export function whyNotLoaded(library: string): string | null {
  return callNative(() => addon.whyNotLoaded(library));
}
