import { strict as assert } from 'node:assert';
import { NativeError, UsageError } from '../errors.ts';
import {
  addon,
  asWeightcastError,
  type Interval,
  type NativeDeviceBuffer,
  type NativeHostDevice,
} from './addon.ts';
import { Mapping, ThreadPool } from './memory.ts';

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

/** What to copy out of one segment. */
export interface Transfer {
  readonly segment: Mapping;
  /**
   * Six numbers a rectangle, in bytes: offset in the segment, offset in the buffer, bytes of a row, rows, pitch in
   * the segment, pitch in the buffer.
   */
  readonly rectangles: Float64Array;
}

/** One GPU, held by one rank. Sizes are bytes. */
export interface Device {
  /** What engines call it: `GPU-…` on CUDA, `HOST-…` on the host device. */
  readonly uuid: string;
  memory(): { readonly free: number; readonly total: number };
  /** Throws `OutOfDeviceMemoryError`. */
  allocate(bytes: number): DeviceBuffer;
  /**
   * H2D. The interval reaches from the first start to the last end; a rejection (`NativeError`) comes after the last
   * copy has stopped.
   */
  upload(transfers: readonly Transfer[], destination: DeviceBuffer): Promise<Interval>;
  /** Gives back all that this process still holds of the device. May be called twice. */
  close(): void;
}

const namespacePattern = /^[A-Za-z0-9_.-]{1,64}$/;
const devicePathPattern = /^\/dev\/shm\/weightcast-device-[A-Za-z0-9_.-]+\/allocation-\d+$/;

/** A GPU emulated in shared memory, with a set capacity. All processes that open the same one share its memory. */
export class HostDevice implements Device {
  readonly uuid: string;
  readonly #native: NativeHostDevice;
  readonly #pool: ThreadPool;

  private constructor(uuid: string, native: NativeHostDevice, pool: ThreadPool) {
    this.uuid = uuid;
    this.#native = native;
    this.#pool = pool;
  }

  /**
   * Makes the device, or joins it if processes have it open. `namespace` keeps the clusters of a host apart: 1 to 64
   * of `A-Z a-z 0-9 _ . -`. The first to open it chooses `capacity`; others give the same, or 0 for what it is.
   */
  static open(options: {
    readonly namespace: string;
    readonly index: number;
    readonly capacity: number;
    readonly uploadThreads: number;
  }): HostDevice {
    const { namespace, index, capacity, uploadThreads } = options;
    if (!namespacePattern.test(namespace)) {
      throw new UsageError(
        `device namespace must be 1 to 64 of A-Z a-z 0-9 _ . -, not ${JSON.stringify(namespace)}`,
      );
    }
    checkWhole('device index', index, 0);
    checkWhole('device capacity', capacity, 0);
    checkWhole('upload threads', uploadThreads, 1);
    const name = `${namespace}-${index}`;
    const pool = new ThreadPool(uploadThreads);
    try {
      const native = new addon.HostDevice(`/dev/shm/weightcast-device-${name}`, capacity);
      return new HostDevice(`HOST-${name}`, native, pool);
    } catch (error) {
      pool.close();
      throw asWeightcastError(error);
    }
  }

  memory(): { readonly free: number; readonly total: number } {
    try {
      return this.#native.memory();
    } catch (error) {
      throw asWeightcastError(error);
    }
  }

  allocate(bytes: number): HostDeviceBuffer {
    try {
      return new HostDeviceBuffer(this.#native.allocate(bytes));
    } catch (error) {
      throw asWeightcastError(error);
    }
  }

  async upload(transfers: readonly Transfer[], destination: DeviceBuffer): Promise<Interval> {
    const { mapping } = asHostBuffer(destination);
    const copies = await Promise.allSettled(
      transfers.map(({ segment, rectangles }) => this.#pool.copy(segment, mapping, rectangles)),
    );
    const intervals = copies.map((copy) => {
      if (copy.status === 'rejected') throw copy.reason;
      return copy.value;
    });
    const now = addon.monotonicMilliseconds();
    if (intervals.length === 0) return { startedAt: now, endedAt: now };
    return {
      startedAt: Math.min(...intervals.map(({ startedAt }) => startedAt)),
      endedAt: Math.max(...intervals.map(({ endedAt }) => endedAt)),
    };
  }

  close(): void {
    this.#pool.close();
    this.#native.close();
  }
}

/** Memory of a host device: a file in its directory. */
export class HostDeviceBuffer implements DeviceBuffer {
  readonly bytes: number;
  readonly ipcHandle: Uint8Array;
  /** The memory itself, for copies by a {@link ThreadPool}; gone after `free`. */
  readonly mapping: Mapping;
  readonly #native: NativeDeviceBuffer;

  constructor(native: NativeDeviceBuffer) {
    this.bytes = native.bytes;
    this.ipcHandle = new TextEncoder().encode(native.path);
    this.mapping = Mapping.of(native);
    this.#native = native;
  }

  free(): void {
    this.#native.free();
  }
}

/** The memory behind a `DeviceBuffer.ipcHandle` of a host device of this machine, for reading. */
export function openDeviceMemory(ipcHandle: Uint8Array): Mapping {
  const path = new TextDecoder().decode(ipcHandle);
  if (!devicePathPattern.test(path))
    throw new NativeError('the handle is not one of memory of a host device');
  return Mapping.open(path, false);
}

/** The buffer as one of a host device, the only kind of device that can be copied to from the host's threads. */
export function asHostBuffer(buffer: DeviceBuffer): HostDeviceBuffer {
  assert(buffer instanceof HostDeviceBuffer, 'a host device works on buffers of host devices only');
  return buffer;
}

function checkWhole(what: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return;
  throw new UsageError(`${what} must be a whole number of at least ${least}, not ${value}`);
}
