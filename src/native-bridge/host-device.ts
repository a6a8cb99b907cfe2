import { strict as assert } from 'node:assert';
import { NativeError, UsageError } from '../errors.ts';
import { addon, type Interval, type NativeHostDevice } from './addon.ts';
import { checkWhole } from './arguments.ts';
import { asWeightcastError } from './call.ts';
import type { Device, DeviceBuffer, Transfer } from './device.ts';
import { Mapping, ThreadPool } from './memory.ts';
import { wholeInterval } from './transfers.ts';

const namespacePattern = /^[A-Za-z0-9_.-]{1,64}$/;
const devicePathPattern = /^\/dev\/shm\/weightcast-device-[A-Za-z0-9_.-]+\/allocation-\d+$/;

/** A GPU emulated in shared memory, with a set capacity. All processes that open the same one share its memory. */
export class HostDevice implements Device {
  readonly uuid: string;
  /** What is emulated has no place. */
  readonly numaNode = null;
  /**
   * Between two buckets an engine worker answers and gets its next order, for which two busy cores need a third of a
   * millisecond. An update of 1 GiB on two cores, medians: 97 ms in buckets of 32 MiB and 78 ms of 64 MiB while they copied
   * 37 GB/s; 98 ms of 64 MiB and 95 ms of 128 MiB while they copied 22 GB/s.
   */
  readonly bucketBytes = 128 * 2 ** 20;
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
      const native = this.#native.allocate(bytes);
      return new HostDeviceBuffer(native.path, Mapping.of(native), native);
    } catch (error) {
      throw asWeightcastError(error);
    }
  }

  open(ipcHandle: Uint8Array): HostDeviceBuffer {
    const mapping = openDeviceMemory(ipcHandle);
    return new HostDeviceBuffer(mapping.path, mapping, { free: () => mapping.close() });
  }

  async upload(transfers: readonly Transfer[], destination: DeviceBuffer): Promise<Interval> {
    const { mapping } = asHostBuffer(destination);
    return wholeInterval(
      transfers.map(({ segment, rectangles }) => {
        const source = segment instanceof Mapping ? segment : asHostBuffer(segment).mapping;
        return this.#pool.copy(source, mapping, rectangles);
      }),
    );
  }

  /** The host's threads copy from any memory. */
  async pin(_segment: Mapping): Promise<void> {}

  async unpin(_segment: Mapping): Promise<void> {}

  digest(buffer: DeviceBuffer, parts: Float64Array): Promise<BigUint64Array> {
    return this.#pool.digest(asHostBuffer(buffer).mapping, parts);
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
  readonly #memory: { free(): void };

  constructor(path: string, mapping: Mapping, memory: { free(): void }) {
    this.bytes = mapping.bytes;
    this.ipcHandle = new TextEncoder().encode(path);
    this.mapping = mapping;
    this.#memory = memory;
  }

  free(): void {
    this.#memory.free();
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
