// Length: the one typed seam to the addon; every native class and function is declared here, together.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { NativeError } from '../errors.ts';
import { packageRoot } from '../package-root.ts';
import type { VerbsParameters } from '../plan/verbs-parameters.ts';

/**
 * The one typed seam to the addon. Everything native is declared here and loaded here; the other files of this
 * folder give it the form the rest of the code uses.
 *
 * All offsets and sizes are bytes, as whole numbers below 2^53. Errors thrown or rejected by native code carry a
 * `code`: `ENOSPC`, `ENOENT`, `EACCES`, ... for a system call, `OUT_OF_DEVICE_MEMORY`, `ABORTED`, `DEADLINE`,
 * `PEER_LOST`, `OUT_OF_RANGE`, `FILE_ENDED`, `CLOSED`, `UNAUTHENTICATED`, `WITHDRAWN`, `OVERLOADED`, `CUDA`, `NCCL`,
 * `DEVICE_LOST` for our own;
 * {@link asWeightcastError} gives them their class.
 */
export interface NativeAddon {
  readonly SharedDirectory: NativeSharedDirectoryClass;
  readonly Mapping: NativeMappingClass;
  readonly ThreadPool: new (threads: number) => NativeThreadPool;
  readonly HostDevice: new (directory: string, capacity: number) => NativeHostDevice;
  readonly CudaDevice: new (index: number, pinThreads: number, stallMilliseconds: number) => NativeCudaDevice;
  readonly ShmCollective: new (options: NativeShmCollectiveOptions) => NativeShmCollective;
  readonly NcclCollective: new (options: NativeNcclCollectiveOptions) => NativeNcclCollective;
  /** An id for a new communicator, of 128 bytes. Throws `NCCL` where there is none that will do. */
  ncclUniqueId(): Uint8Array;
  /** The NCCL that this process uses. Throws `NCCL` where there is none that will do. */
  probeNccl(): NcclProbe;
  readonly Fabric: NativeFabricClass;
  /** What the CUDA driver sees, without making a context. Throws `CUDA` where there is no driver or no GPU. */
  probeCuda(): CudaProbe;
  /** 10000 * major + 100 * minor + patch of the NCCL that this process would use. Throws `NCCL`. */
  ncclVersion(): number;
  /** Why a library of that name is not loaded, in the linker's words; null if it is. */
  whyNotLoaded(library: string): string | null;
  /** What happens, once, when native work reaches a fault point next. Throws `EINVAL` for a name that there is not. */
  armFault(point: string, action: string, milliseconds: number): void;
  /** CLOCK_MONOTONIC in milliseconds: one time for all processes of a host. */
  monotonicMilliseconds(): number;
}

/** When a native operation ran, in milliseconds of {@link NativeAddon.monotonicMilliseconds}. */
export interface Interval {
  readonly startedAt: number;
  readonly endedAt: number;
}

/**
 * A directory in /dev/shm that lives as long as the last process that has it open: each holder keeps a shared
 * flock(2) on `<directory>/lock`, which the kernel drops when the process dies.
 */
export interface NativeSharedDirectoryClass {
  /** Makes the directory (mode 0700) if it is missing, and joins it. */
  new (path: string): NativeSharedDirectory;
  /** Removes the directory if no live process holds it. True if it was removed. */
  removeIfAbandoned(path: string): boolean;
}

export interface NativeSharedDirectory {
  readonly path: string;
  /** Leaves; the last holder to leave removes the directory with all it contains. True if it was removed. */
  close(): boolean;
}

export interface NativeMappingClass {
  /**
   * Makes a file of `bytes` bytes (which must not exist yet), reserves its pages, on NUMA node `numaNode` if it is not
   * -1 and there is a choice, and maps it for writing.
   */
  create(path: string, bytes: number, numaNode: number): NativeMapping;
  /** The same without the pages, which {@link NativeThreadPool.reserve} brings. */
  createEmpty(path: string, bytes: number, numaNode: number): NativeMapping;
  /** Maps an existing file whole. */
  open(path: string, writable: boolean): NativeMapping;
}

/** A file mapped with MAP_SHARED: a segment, an adopted safetensors file, or memory of the host device. */
export interface NativeMapping {
  readonly path: string;
  readonly bytes: number;
  /** Copies bytes out; at most 64 MiB, for headers and tests. Bulk goes through {@link NativeThreadPool}. */
  read(offset: number, bytes: number): Buffer;
  write(offset: number, data: Uint8Array): void;
  /** Unmaps. Native work in flight keeps the memory until it ends. May be called twice. */
  close(): void;
  /** Removes the file's name; mappings stay valid. */
  unlink(): void;
}

/**
 * Native threads for bulk work off the JavaScript thread. Jobs begin in the order they were given, each split over
 * all threads; the promise resolves when the last piece is done, in the order of jobs only where two conflict.
 */
export interface NativeThreadPool {
  readonly threads: number;
  /**
   * Copies rectangles between mappings. Six numbers a rectangle: source offset, destination offset, bytes of a
   * row, rows, source pitch, destination pitch (as cudaMemcpy2D).
   */
  copy(source: NativeMapping, destination: NativeMapping, rectangles: Float64Array): Promise<Interval>;
  /**
   * Copies a buffer of JavaScript into a mapping. The caller leaves `source` untouched until the promise settles.
   */
  copyIn(source: Uint8Array, destination: NativeMapping, offset: number): Promise<Interval>;
  /**
   * Reads ranges of files, past the page cache where it can be. Three numbers a range: file offset, destination offset,
   * bytes. Two a tensor, in ascending order: offset in the destination, bytes; one digest is returned for each, of what was
   * read of it. `progress[0]` counts the bytes read so far (written by the threads as a plain aligned double). As many reads
   * are under way as there are threads, of which `processors` compute at once; the first of several loads says how many.
   */
  load(
    paths: readonly string[],
    ranges: readonly Float64Array[],
    destination: NativeMapping,
    tensors: Float64Array,
    progress: Float64Array,
    processors: number,
  ): Promise<BigUint64Array>;
  /** Brings pages of a mapping made by {@link NativeMappingClass.createEmpty}. Rejects with `ENOSPC`. */
  reserve(
    mapping: NativeMapping,
    offset: number,
    bytes: number,
    progress: Float64Array | null,
  ): Promise<Interval>;
  /**
   * Copies whole tensors into a mapping, each to its offset, and returns their digests. The caller leaves `sources`, the
   * array and what is in it, untouched until the promise settles.
   */
  write(
    sources: readonly Uint8Array[],
    destination: NativeMapping,
    offsets: Float64Array,
    progress: Float64Array | null,
  ): Promise<BigUint64Array>;
  /**
   * Digests of parts of tensors (the definition stands in native/memory/digest.h). Seven numbers a part: offset
   * in the mapping, bytes of a row, rows, pitch in the mapping, byte offset of the part in its tensor, pitch in
   * the tensor, bytes of the tensor. One word for each part; the parts of a tensor sum up to its digest.
   */
  digest(mapping: NativeMapping, parts: Float64Array, progress: Float64Array | null): Promise<BigUint64Array>;
  /** Ends the threads after the jobs already given. */
  close(): void;
}

/**
 * A GPU emulated in named shared memory: a directory with a ledger that all processes using the "GPU" share.
 * What a dead process had allocated is given back when anyone next looks, as a driver does.
 */
export interface NativeHostDevice {
  readonly directory: string;
  memory(): { readonly free: number; readonly total: number };
  /** Throws `OUT_OF_DEVICE_MEMORY` when free memory is less than `bytes`. */
  allocate(bytes: number): NativeDeviceBuffer;
  /** Gives back what this process still holds and leaves the device. */
  close(): void;
}

/** Device memory of this process. Another process opens it by `path` with {@link NativeMappingClass.open}. */
export interface NativeDeviceBuffer extends NativeMapping {
  /** Gives the memory back; may be called twice. */
  free(): void;
}

export interface CudaProbe {
  /** The newest CUDA that the driver supports, such as `13.0`. */
  readonly version: string;
  /** In the order of their indices. */
  readonly devices: readonly {
    readonly uuid: string;
    readonly name: string;
    readonly totalBytes: number;
    /** As in /sys/bus/pci/devices. */
    readonly pciAddress: string;
  }[];
}

/**
 * A GPU, through the CUDA driver. Uploads run in the order they were given; so do copies and reads, and so do digests.
 * `DEVICE_LOST` from any call means that none will succeed any more in this process.
 */
export interface NativeCudaDevice {
  readonly uuid: string;
  /** Of the host's memory next to the device; -1 where there is no choice or the host does not say. */
  readonly numaNode: number;
  /** How much of the host's memory is pinned through this object now. */
  readonly pinnedBytes: number;
  memory(): { readonly free: number; readonly total: number };
  /** Throws `OUT_OF_DEVICE_MEMORY`. */
  allocate(bytes: number): NativeCudaBuffer;
  /** Opens memory that another process allocated, by the 64 bytes of its handle. */
  open(ipcHandle: Uint8Array): NativeCudaBuffer;
  /** Page-locks a mapping, which then stays mapped until it is unpinned. May be called twice. */
  pin(segment: NativeMapping): Promise<void>;
  /** May be called twice, and for a mapping that is closed. */
  unpin(segment: NativeMapping): Promise<void>;
  /** For each segment its rectangles, of six numbers each as {@link NativeThreadPool.copy} takes them. */
  upload(
    segments: readonly NativeMapping[],
    rectangles: readonly Float64Array[],
    destination: NativeCudaBuffer,
  ): Promise<Interval>;
  copy(
    source: NativeCudaBuffer,
    sourceOffset: number,
    destination: NativeCudaBuffer,
    destinationOffset: number,
    bytes: number,
  ): Promise<Interval>;
  /** A copy in the host's memory; at most 64 MiB, for tests. */
  read(source: NativeCudaBuffer, offset: number, bytes: number): Promise<Buffer>;
  /** As {@link NativeThreadPool.digest}. */
  digest(buffer: NativeCudaBuffer, parts: Float64Array): Promise<BigUint64Array>;
  /** Waits for what is under way, and gives back all that is held through this object. May be called twice. */
  close(): void;
}

/** Device memory: allocated by this process, or opened. */
export interface NativeCudaBuffer {
  readonly bytes: number;
  /** Made on first use. Throws `CUDA` where the driver does not share memory among processes. */
  readonly ipcHandle: Uint8Array;
  /** Gives the memory back, after work in flight; may be called twice. */
  free(): void;
}

export interface NativeShmCollectiveOptions {
  /** Control file; every rank names the same one. */
  readonly path: string;
  /** Null for host devices. */
  readonly device: NativeCudaDevice | null;
  readonly rank: number;
  readonly worldSize: number;
}

export interface NativeBroadcastOptions<Memory> {
  readonly root: number;
  /** On the root only, null elsewhere. */
  readonly source: Memory | null;
  readonly sourceOffset: number;
  readonly destination: Memory;
  readonly destinationOffset: number;
  readonly bytes: number;
  readonly timeoutMilliseconds: number;
}

/**
 * Broadcast among devices of one host, on buffers of the kind of device that it was made for. Every rank issues the same
 * broadcasts in the same order; one native thread a rank executes them in that order.
 */
export interface NativeShmCollective {
  /**
   * Copies `bytes` bytes from the root's `source` into `destination` on every rank. On the root it resolves when
   * every rank has its copy (the source may change then), elsewhere when the own copy is done. `source` is given
   * on the root only; where source and destination are the same place nothing is copied. With `letsGo` on the root the
   * others close what they have opened of its memory before it resolves there.
   * Rejects with `ABORTED`, `DEADLINE`, or `PEER_LOST` (naming the rank) when a rank's process is gone.
   */
  broadcast(
    options: NativeBroadcastOptions<NativeMapping | NativeCudaBuffer> & { readonly letsGo: boolean },
  ): Promise<Interval>;
  /** Ends all operations in flight on all ranks with `ABORTED`; later ones fail at once. */
  abort(): void;
  /** Aborts what is in flight here and ends the thread. Does not disturb ranks that are done. */
  close(): void;
}

export interface NcclProbe {
  /** Such as `2.30.7`. */
  readonly version: string;
  /** Whether several ranks of a communicator may be on one GPU. */
  readonly allowsSharedDevices: boolean;
}

export interface NativeNcclCollectiveOptions {
  readonly device: NativeCudaDevice;
  /** 128 bytes of {@link NativeAddon.ncclUniqueId}, the same on every rank. */
  readonly id: Uint8Array;
  /** Control file; every rank of this host names the same one. */
  readonly path: string;
  readonly rank: number;
  readonly worldSize: number;
}

/**
 * Broadcast among CUDA devices through NCCL. Every rank issues the same broadcasts in the same order; several are on the
 * device at a time.
 */
export interface NativeNcclCollective {
  /** Called once, before anything else. Resolves when all ranks have come; rejects as `broadcast`. */
  open(options: { timeoutMilliseconds: number }): Promise<Interval>;
  /**
   * Resolves when the device has done this rank's part: on the root, the source may change then. Rejects with `ABORTED`,
   * `DEADLINE`, `PEER_LOST`, `NCCL`, or `DEVICE_LOST` if NCCL does not let go of the device.
   */
  broadcast(options: NativeBroadcastOptions<NativeCudaBuffer>): Promise<Interval>;
  /** Ends all operations under way, on all ranks of this host, with `ABORTED`; later ones fail at once. */
  abort(): void;
  /**
   * Called once. Aborts what is under way here; resolves when NCCL has given everything back, rejects with `DEVICE_LOST`
   * if it does not.
   */
  close(): Promise<void>;
}

export interface NativeFabricOptions {
  /** At least 16 bytes. */
  readonly secret: Uint8Array;
  /** Numeric addresses; none for all of the host's. */
  readonly listenAddresses: readonly string[];
  /** 0 for any that is free. */
  readonly port: number;
  /** Numeric addresses to be found at; none for those listened at, or those of the host's interfaces. */
  readonly advertisedAddresses: readonly string[];
  /** Threads that move bytes over TCP: 1 to 64. */
  readonly threads: number;
  /** TCP connections to one peer that carry bytes: 1 to 64. */
  readonly streams: number;
  /** Copies from peers of the same host. */
  readonly pool: NativeThreadPool;
  /** To be opened; none for no RDMA. */
  readonly rdmaPorts: readonly { readonly device: string; readonly port: number }[];
  readonly verbs: VerbsParameters;
}

export interface NativeFabricClass {
  new (options: NativeFabricOptions): NativeFabric;
  /** Never throws: without libibverbs, or a device, there are no ports, and `why` says so. */
  rdmaPorts(): { readonly ports: readonly NativeRdmaPort[]; readonly why: string };
}

/** A port of an RDMA device of this host that this process may open. */
export interface NativeRdmaPort {
  readonly device: string;
  /** From 1. */
  readonly port: number;
  readonly isActive: boolean;
  readonly linkLayer: 'infiniband' | 'ethernet';
}

/** One-sided reads between the memory of ranks. */
export interface NativeFabric {
  readonly address: Uint8Array;
  expose(segment: NativeMapping): Promise<NativeExposure>;
  /** Rejects with `UNAUTHENTICATED`, `PEER_LOST`, `DEADLINE`, `ABORTED`, `EPROTO` for an address that is none. */
  connect(options: {
    /** For {@link NativeFabric.cancelConnect}. */
    number: number;
    address: Uint8Array;
    name: string;
    way: 'any' | 'shm' | 'verbs' | 'tcp';
    timeoutMilliseconds: number;
  }): Promise<NativeFabricPeer>;
  cancelConnect(number: number): void;
  /** Ends all reads with `ABORTED`, and all threads. May be called twice. */
  close(): void;
}

export interface NativeExposure {
  /** 16 bytes. */
  readonly token: Uint8Array;
  /** How many connected peers have read it. */
  readonly readers: number;
  close(): Promise<Interval>;
}

export interface NativeFabricPeer {
  readonly kind: 'shm' | 'verbs' | 'tcp';
  /** In words, why bytes come over TCP though any way was welcome; null if they do not, or it was not. */
  readonly whyNotRdma: string | null;
  /**
   * Three numbers a range: offset in the peer's segment, offset in the destination, bytes. `progress[0]`, unless it is
   * null, counts the bytes that have arrived. Rejects with `PEER_LOST`, `DEADLINE`, `ABORTED`, `WITHDRAWN`,
   * `OUT_OF_RANGE`, `OVERLOADED`, ...; not before the last byte that it writes is written.
   */
  read(options: {
    /** For {@link NativeFabricPeer.cancel}; new for each read. */
    number: number;
    token: Uint8Array;
    ranges: Float64Array;
    destination: NativeMapping;
    progress: Float64Array | null;
    timeoutMilliseconds: number;
  }): Promise<Interval>;
  cancel(number: number): void;
  close(): void;
}

const require = createRequire(import.meta.url);
/** What a package has where it was not compiled, by the name under which node-gyp-build finds it. */
const prebuiltPath = `prebuilds/linux-${process.arch}/weightcast.glibc.node`;

function loadAddon(): NativeAddon {
  // For the job that tests a build with sanitizers.
  const given = process.env.WEIGHTCAST_ADDON;
  if (given !== undefined) return require(given) as NativeAddon;
  const [compiled, prebuilt] = ['build/Release/weightcast.node', prebuiltPath].map((path) =>
    fileURLToPath(new URL(path, packageRoot)),
  );
  const path = existsSync(compiled!) ? compiled! : prebuilt!;
  try {
    return require(path) as NativeAddon;
  } catch (error) {
    const [reason] = (error as Error).message.split('\n');
    throw new NativeError(
      `the native addon cannot be loaded; run "npm rebuild weightcast", or in a checkout "npm run build:native" (${path}: ${reason})`,
    );
  }
}

export const addon: NativeAddon = loadAddon();
