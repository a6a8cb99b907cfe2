import { statfsSync } from 'node:fs';
import * as z from 'zod';
import { NativeError, UsageError } from '../errors.ts';
import { CudaDevice } from '../native-bridge/cuda-device.ts';
import type { Device } from '../native-bridge/device.ts';
import { HostDevice } from '../native-bridge/host-device.ts';
import { probeCuda } from '../native-bridge/probe.ts';
import { issueOf } from '../schema-issue.ts';

/** More threads do not pin memory faster: the driver serialises most of the work. */
const mostPinThreads = 4;

/**
 * How many pieces of files, of 4 MiB, a rank process reads at once, a thread for each. Eight ranks of a host have 512 MiB under way,
 * which is more than any storage brings in the time that one read takes; a thread that waits costs nothing.
 */
export const readsUnderWay = 16;

/**
 * How many threads of a rank process pin segments, and how many load, digest and copy them. Both pools run at once while
 * a checkpoint is registered. Together they have no more threads than the process's share of the host's cores, unless that
 * is 1: pinning takes longest, and must not wait for a core behind digests.
 */
export function divideThreads({ kind }: DeviceOptions, threads: number): { pin: number; bulk: number } {
  if (kind === 'host') return { pin: 0, bulk: threads };
  const pin = Math.min(mostPinThreads, Math.max(1, Math.floor(threads / 4)));
  return { pin, bulk: Math.max(1, threads - pin) };
}

export const cudaDevices = z.object({
  kind: z.literal('cuda'),
  /** Index of each rank's GPU among those in CUDA_VISIBLE_DEVICES. Default: rank n uses GPU n, if
   * all ranks are on one host. */
  indices: z.array(z.int().min(0)).readonly().exactOptional(),
});

export const hostDevices = z.object({
  kind: z.literal('host'),
  /** All processes of a machine that use the same namespace share its host devices. Default: `default`. */
  namespace: z.string().exactOptional(),
  /** Bytes of each device. Default: what the process gave that made it; half of the free shared memory if there is none yet. */
  capacity: z.int().min(0).exactOptional(),
  /** Device index of rank 0; rank n uses `first + n`. Default: 0. */
  first: z.int().min(0).exactOptional(),
});

export const deviceOptions = z.discriminatedUnion('kind', [cudaDevices, hostDevices]);

/** The devices of the ranks: GPUs of this machine, or devices emulated in shared memory. */
export type DeviceOptions = z.infer<typeof deviceOptions>;

/** GPUs if the CUDA driver finds any, otherwise host devices. */
export function defaultDevices(): DeviceOptions {
  try {
    if (probeCuda().devices.length > 0) return { kind: 'cuda' };
  } catch (error) {
    // No usable driver, or no GPU.
    if (!(error instanceof NativeError)) throw error;
  }
  return { kind: 'host' };
}

/** Throws `UsageError` for invalid options, and for options that do not give every rank a device. */
export function checkDevices(options: DeviceOptions, ranks: number): void {
  const parsed = deviceOptions.safeParse(options);
  if (!parsed.success) {
    const { path, message } = issueOf(parsed.error);
    throw new UsageError(`${['devices', ...path].join('.')}: ${message}`);
  }
  if (options.kind === 'cuda' && options.indices !== undefined && options.indices.length !== ranks) {
    throw new UsageError(`devices.indices has ${options.indices.length} entries for ${ranks} ranks`);
  }
}

/**
 * The GPU of a rank on its host, by index or UUID: what its instance has chosen, or else what the options of the host say.
 * `entry`: which of `indices` is its own. Throws `UsageError` if there are indices, but none for it.
 */
export function gpuOf(
  options: DeviceOptions | undefined,
  chosen: number | string | undefined,
  { rank, entry, position }: { readonly rank: number; readonly entry: number; readonly position: number },
): number | string {
  if (chosen !== undefined) return chosen;
  if (options?.kind !== 'cuda' || options.indices === undefined) return position;
  const index = options.indices[entry];
  if (index !== undefined) return index;
  throw new UsageError(
    `rank ${rank} has no GPU: devices.indices of its host has ${options.indices.length} entries`,
  );
}

/** Index of a GPU among those that this process sees. Throws `UsageError` for a UUID that none of them has. */
export function gpuIndexOf(gpu: number | string): number {
  if (typeof gpu === 'number') return gpu;
  const uuids = probeCuda().devices.map(({ uuid }) => uuid);
  const index = uuids.indexOf(gpu);
  if (index >= 0) return index;
  throw new UsageError(`there is no device ${gpu}; this host has ${uuids.join(', ')}`);
}

/**
 * Opens the device of a rank; `gpu` is which where it is one, `chosen` what its instance has chosen. `threads` are this
 * process's share of the host's cores. Throws `NativeError`, and `UsageError` for a device that this host cannot have.
 */
export function openDevice(
  options: DeviceOptions,
  rank: number,
  {
    gpu,
    chosen,
    threads,
  }: {
    readonly gpu: number | string;
    readonly chosen?: number | string | undefined;
    readonly threads: number;
  },
): Device {
  if (options.kind === 'cuda') {
    const { pin } = divideThreads(options, threads);
    return CudaDevice.open({ index: gpuIndexOf(gpu), pinThreads: pin });
  }
  if (typeof chosen === 'string')
    throw new UsageError(
      `rank ${rank}: device ${chosen} is no index, and the devices of its host are host devices`,
    );
  const { namespace = 'default', capacity = 0, first = 0 } = options;
  const device = { namespace, index: chosen ?? first + rank, uploadThreads: threads };
  if (capacity > 0) return HostDevice.open({ ...device, capacity });
  return openExisting(device) ?? makeDevice(device);
}

type NamedHostDevice = Omit<Parameters<typeof HostDevice.open>[0], 'capacity'>;

function openExisting(device: NamedHostDevice): HostDevice | null {
  try {
    return HostDevice.open({ ...device, capacity: 0 });
  } catch (error) {
    if (causeOf(error) === 'ENOENT') return null;
    throw error;
  }
}

/** For an engine that has no host device of its own, as every real one: it maps what its rank gives it. */
function makeDevice(device: NamedHostDevice): HostDevice {
  try {
    return HostDevice.open({ ...device, capacity: madeCapacity() });
  } catch (error) {
    // Another process was faster, and chose.
    if (causeOf(error) === 'EINVAL') return HostDevice.open({ ...device, capacity: 0 });
    throw error;
  }
}

function causeOf(error: unknown): string | undefined {
  return ((error as Error).cause as NodeJS.ErrnoException | undefined)?.code;
}

/** Half of what shared memory still takes, in whole pages of 2 MiB: the checkpoint lies there too. */
function madeCapacity(): number {
  const { bavail, bsize } = statfsSync('/dev/shm');
  const page = 2 ** 21;
  return Math.max(page, Math.floor((bavail * bsize) / 2 / page) * page);
}
