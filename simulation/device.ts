import { strict as assert } from 'node:assert';
import { NativeError, OutOfDeviceMemoryError } from '../src/errors.ts';
import type { Interval } from '../src/native-bridge/addon.ts';
import type { Device, DeviceBuffer, Transfer } from '../src/native-bridge/device.ts';
import { rowsOf } from '../src/native-bridge/rectangles.ts';
import type { Clock } from '../src/ports.ts';
import { elapse } from './clock.ts';
import { asSegment, Contents } from './contents.ts';
import type { Trace } from './trace.ts';

/** Bytes per millisecond, about the rate of PCIe 5 x16. */
const uploadRate = 55e6;

/** A simulated allocation of device memory. */
export class SimulatedBuffer implements DeviceBuffer {
  readonly bytes: number;
  readonly ipcHandle: Uint8Array;
  readonly contents = new Contents();
  readonly name: string;
  /** Communicator members of other ranks that have it mapped. */
  readonly openers = new Set<object>();
  readonly #release: () => void;
  #freed = false;

  constructor(name: string, bytes: number, release: () => void) {
    this.name = name;
    this.bytes = bytes;
    this.ipcHandle = new TextEncoder().encode(name);
    this.#release = release;
  }

  /** Freed by its owner, which must have made sure that nobody uses it any more. */
  get isFreed(): boolean {
    return this.#freed;
  }

  free(): void {
    this.#freed = true;
    this.#release();
  }

  /** Its owner's process is gone, which may happen while others still use it. */
  lose(): void {
    if (!this.#freed) this.#release();
  }
}

/** The device buffer behind the port's interface. Throws if it is not simulated. */
export function asSimulatedBuffer(buffer: DeviceBuffer): SimulatedBuffer {
  assert(buffer instanceof SimulatedBuffer, 'the buffer is simulated');
  return buffer;
}

/** One GPU: how much of its memory is allocated, where its contents came from, and how long uploads take. */
export class SimulatedDevice {
  readonly uuid: string;
  readonly capacity: number;
  /** Bytes held by other programs, such as an inference engine's caches. */
  foreignBytes = 0;
  /** How many of the next allocations fail, whatever `memory()` says, as with fragmented memory. */
  allocationFailures = 0;
  /** How many of the next uploads fail. */
  uploadFailures = 0;
  /** A fault: how many times longer than usual everything takes at the moment. */
  slowdown = 1;
  readonly #slowness: number;
  readonly #trace: Trace;
  readonly #buffers = new Map<string, SimulatedBuffer>();
  #allocations = 0;

  constructor(uuid: string, capacity: number, slowness: number, trace: Trace) {
    this.uuid = uuid;
    this.capacity = capacity;
    this.#slowness = slowness;
    this.#trace = trace;
  }

  /** Bytes allocated by ranks. */
  get used(): number {
    let used = 0;
    for (const { bytes } of this.#buffers.values()) used += bytes;
    return used;
  }

  /** How many times longer everything takes than on a current fast GPU. */
  get slowness(): number {
    return this.#slowness * this.slowdown;
  }

  get free(): number {
    return Math.max(0, this.capacity - this.used - this.foreignBytes);
  }

  /** Opens a buffer by its handle, as another process does. */
  find(ipcHandle: Uint8Array): SimulatedBuffer | undefined {
    return this.#buffers.get(new TextDecoder().decode(ipcHandle));
  }

  /** Opens the device in one process; `close` releases what that process still holds. */
  open(clock: Clock): Device {
    const held = new Set<SimulatedBuffer>();
    return {
      uuid: this.uuid,
      numaNode: null,
      bucketBytes: 32 * 2 ** 20,
      memory: () => ({ free: this.free, total: this.capacity }),
      allocate: (bytes) => this.#allocate(bytes, held),
      open: () => {
        throw new NativeError('nobody publishes from a simulated device');
      },
      upload: (transfers, destination) => this.#upload(transfers, asSimulatedBuffer(destination), clock),
      pin: async () => {},
      unpin: async () => {},
      digest: () => Promise.reject(new NativeError('a simulated device holds no bytes')),
      close: () => {
        for (const buffer of held) buffer.lose();
      },
    };
  }

  #allocate(bytes: number, held: Set<SimulatedBuffer>): SimulatedBuffer {
    if (this.allocationFailures > 0 || bytes > this.free) {
      this.allocationFailures = Math.max(0, this.allocationFailures - 1);
      throw new OutOfDeviceMemoryError(`${this.uuid}: ${bytes} bytes wanted, ${this.free} free`);
    }
    this.#allocations += 1;
    const name = `${this.uuid}/${this.#allocations}`;
    this.#trace.add(name, `allocated, ${bytes} bytes`);
    const buffer = new SimulatedBuffer(name, bytes, () => {
      if (!this.#buffers.delete(name)) return;
      if (buffer.isFreed && buffer.openers.size > 0)
        this.#trace.violated(`${name} was freed while other ranks had it mapped`);
      this.#trace.add(name, 'freed');
      held.delete(buffer);
    });
    this.#buffers.set(name, buffer);
    held.add(buffer);
    return buffer;
  }

  async #upload(
    transfers: readonly Transfer[],
    destination: SimulatedBuffer,
    clock: Clock,
  ): Promise<Interval> {
    const copies = transfers.flatMap(({ segment, rectangles }) =>
      rowsOf(rectangles).map((row) => ({ segment: asSegment(segment), ...row })),
    );
    let bytes = 0;
    for (const copy of copies) {
      // Contents are undefined while a copy runs.
      destination.contents.erase(copy.to, copy.bytes);
      bytes += copy.bytes;
    }
    const interval = await elapse(clock, (bytes / uploadRate) * this.slowness);
    if (destination.isFreed)
      this.#trace.violated(`an upload wrote to ${destination.name} after it was freed`);
    if (this.uploadFailures > 0) {
      this.uploadFailures -= 1;
      throw new NativeError(`an upload to ${this.uuid} failed`);
    }
    this.#trace.add(destination.name, `uploaded ${bytes} bytes`);
    for (const { segment, from, to, bytes: size } of copies) {
      destination.contents.write(to, size, segment.contents.read(from, size));
    }
    return interval;
  }
}
