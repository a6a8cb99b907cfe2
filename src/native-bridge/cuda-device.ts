import { strict as assert } from 'node:assert';
import { addon, type Interval, type NativeCudaBuffer, type NativeCudaDevice } from './addon.ts';
import { checkWhole } from './arguments.ts';
import { awaitNative, callNative } from './call.ts';
import type { Device, DeviceBuffer, Transfer } from './device.ts';
import { Mapping } from './memory.ts';
import { rowsOf } from './rectangles.ts';
import { wholeInterval } from './transfers.ts';

/** A GPU that does nothing for so long hangs. Longer than any pause that an engine's kernels make. */
const defaultStallMilliseconds = 60_000;

/**
 * Uploads alone reach the rate of PCIe 5 x16 with 32 MiB. But a call of vLLM's `load_weights` looks through the whole model
 * before its first tensor, 2 milliseconds for one of 42 layers, in which the link carries 110 MB: of 96 MiB buckets that was
 * more than half of what an update took (bench/results/pause-gpu.md).
 */
const defaultBucketBytes = 256 * 2 ** 20;

/** A GPU of this machine. Its memory can be opened by other processes, and is given back when this one ends. */
export class CudaDevice implements Device {
  /** `GPU-…`, as NVML and vLLM have it; `MIG-…` for an instance of a partitioned GPU. */
  readonly uuid: string;
  readonly numaNode: number | null;
  readonly bucketBytes = defaultBucketBytes;
  /** For the other files of this folder. */
  readonly native: NativeCudaDevice;

  private constructor(native: NativeCudaDevice) {
    this.uuid = native.uuid;
    this.numaNode = native.numaNode < 0 ? null : native.numaNode;
    this.native = native;
  }

  /**
   * `index` counts from 0 among the devices that CUDA_VISIBLE_DEVICES leaves; `pinThreads` share the work of pinning,
   * of which more than 8 do not make it faster. When the GPU makes no progress for `stallMilliseconds` (default: a
   * minute), work on it fails with `DeviceLostError`. Throws `NativeError`. Takes some 0.3 seconds.
   */
  static open(options: {
    readonly index: number;
    readonly pinThreads: number;
    readonly stallMilliseconds?: number;
  }): CudaDevice {
    const { index, pinThreads, stallMilliseconds = defaultStallMilliseconds } = options;
    checkWhole('device index', index, 0);
    checkWhole('pin threads', pinThreads, 1);
    checkWhole('stall milliseconds', stallMilliseconds, 1);
    return new CudaDevice(callNative(() => new addon.CudaDevice(index, pinThreads, stallMilliseconds)));
  }

  memory(): { readonly free: number; readonly total: number } {
    return callNative(() => this.native.memory());
  }

  /** Bytes of segments that are pinned through this object now; what was unpinned goes a moment later. */
  get pinnedBytes(): number {
    return this.native.pinnedBytes;
  }

  allocate(bytes: number): CudaDeviceBuffer {
    return new CudaDeviceBuffer(callNative(() => this.native.allocate(bytes)));
  }

  /** Its `bytes` may be more than were asked for there. */
  open(ipcHandle: Uint8Array): CudaDeviceBuffer {
    return new CudaDeviceBuffer(callNative(() => this.native.open(ipcHandle)));
  }

  pin(segment: Mapping): Promise<void> {
    return awaitNative(this.native.pin(segment.native));
  }

  unpin(segment: Mapping): Promise<void> {
    return awaitNative(this.native.unpin(segment.native));
  }

  async upload(transfers: readonly Transfer[], destination: DeviceBuffer): Promise<Interval> {
    const segments: Mapping['native'][] = [];
    const rectanglesOf: Float64Array[] = [];
    const onDevice: (ReturnType<typeof rowsOf>[number] & { readonly buffer: DeviceBuffer })[] = [];
    for (const { segment, rectangles } of transfers) {
      if (segment instanceof Mapping) {
        segments.push(segment.native);
        rectanglesOf.push(rectangles);
      } else {
        for (const row of rowsOf(rectangles)) onDevice.push({ ...row, buffer: segment });
      }
    }
    const copies: Promise<Interval>[] = [];
    if (segments.length > 0 || onDevice.length === 0)
      copies.push(awaitNative(this.native.upload(segments, rectanglesOf, asCudaBuffer(destination).native)));
    for (const { buffer, from, to, bytes } of onDevice)
      copies.push(this.copy({ buffer, offset: from }, { buffer: destination, offset: to }, bytes));
    return wholeInterval(copies);
  }

  /** D2D, within the device or from and to memory that was opened. */
  copy(
    source: { readonly buffer: DeviceBuffer; readonly offset: number },
    destination: { readonly buffer: DeviceBuffer; readonly offset: number },
    bytes: number,
  ): Promise<Interval> {
    const [from, to] = [asCudaBuffer(source.buffer), asCudaBuffer(destination.buffer)];
    return awaitNative(this.native.copy(from.native, source.offset, to.native, destination.offset, bytes));
  }

  /** D2H, at most 64 MiB: for tests. */
  read(source: DeviceBuffer, offset: number, bytes: number): Promise<Buffer> {
    return awaitNative(this.native.read(asCudaBuffer(source).native, offset, bytes));
  }

  /** The first one takes some 0.2 seconds more: the driver compiles the kernel. */
  digest(buffer: DeviceBuffer, parts: Float64Array): Promise<BigUint64Array> {
    return awaitNative(this.native.digest(asCudaBuffer(buffer).native, parts));
  }

  /** Work that is under way ends first; what has not begun fails with `NativeError`. */
  close(): void {
    this.native.close();
  }
}

/** Memory of a GPU. */
export class CudaDeviceBuffer implements DeviceBuffer {
  /** For the other files of this folder. */
  readonly native: NativeCudaBuffer;
  readonly bytes: number;

  constructor(native: NativeCudaBuffer) {
    this.native = native;
    this.bytes = native.bytes;
  }

  /** Throws `NativeError` where the driver does not share memory among processes. */
  get ipcHandle(): Uint8Array {
    return callNative(() => this.native.ipcHandle);
  }

  free(): void {
    this.native.free();
  }
}

/** The buffer as one of a GPU, the only kind that the CUDA driver can work on. */
export function asCudaBuffer(buffer: DeviceBuffer): CudaDeviceBuffer {
  assert(buffer instanceof CudaDeviceBuffer, 'a CUDA device works on buffers of CUDA devices only');
  return buffer;
}
