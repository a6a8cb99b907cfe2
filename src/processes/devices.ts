import { z } from 'zod';
import { NativeError, UsageError } from '../errors.ts';
import { CudaDevice } from '../native-bridge/cuda-device.ts';
import type { Device } from '../native-bridge/device.ts';
import { HostDevice } from '../native-bridge/host-device.ts';
import { probeCuda } from '../native-bridge/probe.ts';

/** More threads than this do not pin memory faster: the driver does most of it one after the other. */
const mostPinThreads = 4;

/**
 * How many threads of a rank process pin segments, and how many load, digest and copy them. Both go on at once while a
 * checkpoint is registered, and together they are no more than the process's share of the host's cores, unless that is 1:
 * the threads that pin have the most to do, and would wait for a core behind those that digest.
 */
export function divideThreads({ kind }: DeviceOptions, threads: number): { pin: number; bulk: number } {
  if (kind === 'host') return { pin: 0, bulk: threads };
  const pin = Math.min(mostPinThreads, Math.max(1, Math.floor(threads / 4)));
  return { pin, bulk: Math.max(1, threads - pin) };
}

export const cudaDevices = z.object({
  kind: z.literal('cuda'),
  /** Index of each rank's GPU among those that CUDA_VISIBLE_DEVICES leaves; by default rank n has GPU n. */
  indices: z.array(z.int().min(0)).readonly().exactOptional(),
});

export const hostDevices = z.object({
  kind: z.literal('host'),
  /** Host devices of one namespace are shared by all processes of a machine that name it. Default: `default`. */
  namespace: z.string().exactOptional(),
  /** Bytes of each device; by default what the first process to open it said. */
  capacity: z.int().min(0).exactOptional(),
  /** Device of rank 0; rank n sits n further. Default: 0. */
  first: z.int().min(0).exactOptional(),
});

export const deviceOptions = z.discriminatedUnion('kind', [cudaDevices, hostDevices]);

/** What ranks own: the GPUs of this machine, or devices emulated in shared memory. */
export type DeviceOptions = z.infer<typeof deviceOptions>;

/** GPUs where the CUDA driver sees any, otherwise host devices. */
export function defaultDevices(): DeviceOptions {
  try {
    if (probeCuda().devices.length > 0) return { kind: 'cuda' };
  } catch (error) {
    // No driver, or no GPU.
    if (!(error instanceof NativeError)) throw error;
  }
  return { kind: 'host' };
}

/** Throws `UsageError` for options that are none, or that do not give every rank a device. */
export function checkDevices(options: DeviceOptions, ranks: number): void {
  const parsed = deviceOptions.safeParse(options);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new UsageError(`devices.${issue?.path.join('.')}: ${issue?.message}`);
  }
  if (options.kind === 'cuda' && options.indices !== undefined && options.indices.length !== ranks) {
    throw new UsageError(`devices.indices has ${options.indices.length} entries for ${ranks} ranks`);
  }
}

/** Opens the device of a rank. `threads` are this process's share of the host's cores. Throws `NativeError`. */
export function openDevice(options: DeviceOptions, rank: number, threads: number): Device {
  if (options.kind === 'cuda') {
    const { pin } = divideThreads(options, threads);
    return CudaDevice.open({ index: options.indices?.[rank] ?? rank, pinThreads: pin });
  }
  const { namespace = 'default', capacity = 0, first = 0 } = options;
  try {
    return HostDevice.open({ namespace, index: first + rank, capacity, uploadThreads: threads });
  } catch (error) {
    const { code } = ((error as Error).cause ?? {}) as NodeJS.ErrnoException;
    if (capacity > 0 || code !== 'ENOENT') throw error;
    // Whoever opens a device without a capacity expects an engine to have made it.
    throw new UsageError(
      `rank ${rank} finds no engine on host device ${namespace}-${first + rank}; start the engine first, or name its devices (host:NAMESPACE)`,
    );
  }
}
