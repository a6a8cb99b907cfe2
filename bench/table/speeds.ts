/** Bytes per millisecond, milliseconds. */
export interface Speeds {
  /** Host to device, of each GPU. */
  readonly upload: number;
  /** What each rank receives of one broadcast within a host. */
  readonly broadcast: number;
  /** The NICs of a host together, in each direction; irrelevant on one host. */
  readonly network: number;
  /** What an engine worker does for a bucket, whatever its tensors, one after the other. */
  readonly workerBucket: number;
  /** What lies between the rank and that, there and back: buckets are announced ahead meanwhile. */
  readonly workerTrip: number;
  readonly workerTensor: number;
  /** A broadcast on top of its bytes, while others wait behind it. */
  readonly broadcastStart: number;
  /** From the end of a broadcast, or of an upload, until the worker is asked. */
  readonly notice: number;
  /** From one rank of a ring to the next: on the same host, and to the next host. */
  readonly hop: number;
  readonly networkHop: number;
  /** An update before its first upload and after its last answer, post-hooks and pauses of engines not included. */
  readonly fixed: number;
}

const gigabytesPerSecond = 1e6;

/** Before buckets were announced ahead, as in the runs of gpu-h100.md: a bucket was asked for when the last was answered. */
export const oneByOne = { workerBucket: 0.61, workerTrip: 0 } as const satisfies Partial<Speeds>;

/**
 * Measured, all of them on one host: from asking the worker for a bucket to its answer 0.61 ms and 26 µs a tensor with the
 * bench's stub of a model (0.67 ms of which 0.058 ms for 2.25 tensors), of which 0.43 are left for each bucket where some are
 * announced ahead (worker-link.md); NCCL's broadcasts between two GPUs, 0.06 ms and
 * 367 GB/s where the link has 450 (collective.md, 128 and 256 MiB); its end is polled every half millisecond. The rest of an
 * update: gpu.md.
 */
export const measured: Speeds = {
  upload: 55 * gigabytesPerSecond,
  broadcast: 367 * gigabytesPerSecond,
  network: Number.POSITIVE_INFINITY,
  workerBucket: 0.26,
  workerTrip: 0.35,
  workerTensor: 0.026,
  broadcastStart: 0.06,
  notice: 0.25,
  hop: 0,
  networkHop: 0,
  fixed: 20,
};

/** Of what a link has, NCCL gets as much of NVLink as was measured; of the network nothing was. */
const nvlinkPart = 367 / 450;
const networkPart = 0.9;

export interface Machine {
  readonly name: string;
  readonly gpusPerHost: number;
  /** GB/s: PCIe and NVLink of a GPU, one NIC for each GPU, in one direction. */
  readonly pcie: number;
  readonly nvlink: number;
  readonly nic: number;
  /** GB/s, both directions together. */
  readonly hostMemory: number;
}

/** Assumed, not measured: PCIe 5 x16, a NIC of 400 Gbit/s for each GPU, NVLink as the GPU's data sheet has it. */
export const machines = {
  h800: { name: 'H800', gpusPerHost: 8, pcie: 50, nvlink: 200, nic: 50, hostMemory: 500 },
  h20: { name: 'H20', gpusPerHost: 8, pcie: 50, nvlink: 450, nic: 50, hostMemory: 500 },
} as const satisfies Record<string, Machine>;

export function speedsOf({ pcie, nvlink, nic, gpusPerHost }: Machine): Speeds {
  return {
    ...measured,
    upload: pcie * gigabytesPerSecond,
    broadcast: nvlink * nvlinkPart * gigabytesPerSecond,
    network: nic * gpusPerHost * networkPart * gigabytesPerSecond,
    hop: 0.005,
    networkHop: 0.015,
  };
}

/** For a join, of one rank while all of its host do so (bench/results/cuda-device.md, alone: 9.4 and 19 GB/s). */
export const reserving = 9.4 * gigabytesPerSecond;
export const pinning = 19 * gigabytesPerSecond;

/** Received bytes are written to host memory and read from there; so each gets half of it. */
export function receivingRate({ nic, hostMemory, gpusPerHost }: Machine): number {
  return Math.min(nic * networkPart, hostMemory / 2 / gpusPerHost) * gigabytesPerSecond;
}
