import { NativeError, OutOfDeviceMemoryError } from '../src/errors.ts';
import type { Interval } from '../src/native-bridge/addon.ts';
import type { Device, DeviceBuffer, Transfer } from '../src/native-bridge/device.ts';
import type { Clock } from '../src/ports.ts';
import { Contents } from './contents.ts';
import type { SimulatedSegment } from './host.ts';
import type { Trace } from './trace.ts';

/** Bytes a millisecond; about what PCIe 5 does. */
const uploadRate = 55e6;

/** Device memory of a simulation. */
export class SimulatedBuffer implements DeviceBuffer {
  readonly bytes: number;
  readonly ipcHandle: Uint8Array;
  readonly contents = new Contents();
  readonly name: string;
  /** Members of communicators that have it open. */
  readonly openers = new Set<object>();
  readonly #release: () => void;
  #freed = false;

  constructor(name: string, bytes: number, release: () => void) {
    this.name = name;
    this.bytes = bytes;
    this.ipcHandle = new TextEncoder().encode(name);
    this.#release = release;
  }

  /** Given back by its owner, who answers for nobody using it any more. */
  get isFreed(): boolean {
    return this.#freed;
  }

  free(): void {
    this.#freed = true;
    this.#release();
  }

  /** Gone with its owner's process, which answers for nothing. */
  lose(): void {
    if (!this.#freed) this.#release();
  }
}

/** One GPU: an account of its memory, where what is in it came from, and how long an upload takes. */
export class SimulatedDevice {
  readonly uuid: string;
  readonly capacity: number;
  /** Bytes that others hold, an inference engine's caches for example. */
  others = 0;
  /** So many of the next allocations fail, whatever `memory()` says: the free memory is in pieces. */
  refusals = 0;
  /** So many of the next uploads fail. */
  uploadFailures = 0;
  /** How many times longer than usual everything takes at the moment. */
  hindrance = 1;
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

  /** Bytes that ranks have allocated. */
  get used(): number {
    let used = 0;
    for (const { bytes } of this.#buffers.values()) used += bytes;
    return used;
  }

  /** How many times longer everything takes than on a fast device of today. */
  get slowness(): number {
    return this.#slowness * this.hindrance;
  }

  get free(): number {
    return Math.max(0, this.capacity - this.used - this.others);
  }

  /** What another process that was given the handle opens. */
  find(ipcHandle: Uint8Array): SimulatedBuffer | undefined {
    return this.#buffers.get(new TextDecoder().decode(ipcHandle));
  }

  /** The device as one process has it; what the process holds goes when the process does. */
  open(clock: Clock): Device {
    const held = new Set<SimulatedBuffer>();
    return {
      uuid: this.uuid,
      numaNode: null,
      bucketBytes: 32 * 2 ** 20,
      memory: () => ({ free: this.free, total: this.capacity }),
      allocate: (bytes) => this.#allocate(bytes, held),
      upload: (transfers, destination) => this.#upload(transfers, destination as SimulatedBuffer, clock),
      pin: async () => {},
      unpin: async () => {},
      digest: () => Promise.reject(new NativeError('a simulated device holds no bytes')),
      close: () => {
        for (const buffer of held) buffer.lose();
      },
    };
  }

  #allocate(bytes: number, held: Set<SimulatedBuffer>): SimulatedBuffer {
    if (this.refusals > 0 || bytes > this.free) {
      this.refusals = Math.max(0, this.refusals - 1);
      throw new OutOfDeviceMemoryError(`${this.uuid}: ${bytes} bytes wanted, ${this.free} free`);
    }
    this.#allocations += 1;
    const name = `${this.uuid}/${this.#allocations}`;
    this.#trace.add(name, `allocated, ${bytes} bytes`);
    const buffer = new SimulatedBuffer(name, bytes, () => {
      if (!this.#buffers.delete(name)) return;
      if (buffer.isFreed && buffer.openers.size > 0)
        this.#trace.violated(`${name} was freed while other ranks had it open`);
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
    const copies = transfers.flatMap(({ segment, rectangles }) => copiesOf(segment as never, rectangles));
    let bytes = 0;
    for (const copy of copies) {
      // While a copy runs nobody can say what is there.
      destination.contents.erase(copy.to, copy.bytes);
      bytes += copy.bytes;
    }
    const interval = await elapse(clock, (bytes / uploadRate) * this.slowness);
    if (destination.isFreed)
      this.#trace.violated(`an upload ran into ${destination.name} after it was freed`);
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

interface Copy {
  readonly segment: SimulatedSegment;
  readonly from: number;
  readonly to: number;
  readonly bytes: number;
}

/** The rows of rectangles; six numbers each, as the addon's `copy` takes them. */
function copiesOf(segment: SimulatedSegment, rectangles: Float64Array): Copy[] {
  const copies: Copy[] = [];
  for (let at = 0; at < rectangles.length; at += 6) {
    const [from, to, bytes, rows, fromPitch, toPitch] = rectangles.subarray(at, at + 6);
    for (let row = 0; row < rows!; row += 1) {
      copies.push({ segment, from: from! + row * fromPitch!, to: to! + row * toPitch!, bytes: bytes! });
    }
  }
  return copies;
}

/** Lets virtual time pass. */
export function elapse(clock: Clock, milliseconds: number): Promise<Interval> {
  const startedAt = clock.now();
  return new Promise((resolve) => {
    clock.after(milliseconds, () => resolve({ startedAt, endedAt: clock.now() }));
  });
}
