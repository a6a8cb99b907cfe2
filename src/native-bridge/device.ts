import type { Interval } from './addon.ts';
import type { Mapping } from './memory.ts';

/** Device memory that one process allocated and others can open. */
export interface DeviceBuffer {
  readonly bytes: number;
  /**
   * What another process opens it with: on CUDA the 64 raw bytes of `cuIpcGetMemHandle`, on the host device the path
   * in UTF-8.
   */
  readonly ipcHandle: Uint8Array;
  /** Gives the memory back; may be called twice. The caller sees to it that nobody uses it any more. */
  free(): void;
}

/** What to copy out of one segment, or out of memory of the device that was opened. */
export interface Transfer {
  readonly segment: Mapping | DeviceBuffer;
  /**
   * Six numbers a rectangle, in bytes: offset in the segment, offset in the buffer, bytes of a row, rows, pitch in
   * the segment, pitch in the buffer.
   */
  readonly rectangles: Float64Array;
}

/**
 * One GPU, held by one rank. Sizes are bytes. `DeviceLostError` from any of its methods means that none will succeed any
 * more in this process.
 */
export interface Device {
  /** What engines call it: `GPU-…` on CUDA, `HOST-…` on the host device. */
  readonly uuid: string;
  /** Where the host's memory should lie that is to be copied to the device; null where there is no choice. */
  readonly numaNode: number | null;
  /** The smallest piece in which uploads, and engine workers that copy each piece out, keep the link busy. */
  readonly bucketBytes: number;
  memory(): { readonly free: number; readonly total: number };
  /** Throws `OutOfDeviceMemoryError`. */
  allocate(bytes: number): DeviceBuffer;
  /**
   * Memory of this device that another process has allocated, by its `ipcHandle`; `free` lets go of it. Throws `NativeError`.
   */
  open(ipcHandle: Uint8Array): DeviceBuffer;
  /**
   * Page-locks a segment, which makes uploads from it several times as fast. Resolves at once if it is pinned. The
   * segment stays mapped until it is unpinned, also if it is closed. Rejects with `NativeError`.
   */
  pin(segment: Mapping): Promise<void>;
  /** Resolves at once if the segment is not pinned. No upload from it is under way. */
  unpin(segment: Mapping): Promise<void>;
  /**
   * H2D, or within the device, in the order of the calls; many may be under way at a time. The interval reaches from the first start to the last
   * end; a rejection (`NativeError`, `DeviceLostError`) comes after the last copy has stopped.
   */
  upload(transfers: readonly Transfer[], destination: DeviceBuffer): Promise<Interval>;
  /** Digests of parts of tensors that lie in the buffer; as `ThreadPool.digest`. */
  digest(buffer: DeviceBuffer, parts: Float64Array): Promise<BigUint64Array>;
  /** Gives back all that this process still holds of the device. May be called twice. */
  close(): void;
}
