import { OutOfDeviceMemoryError } from '../errors.ts';
import type { Interval } from '../native-bridge/addon.ts';
import type { Device, DeviceBuffer } from '../native-bridge/device.ts';
import type { Clock } from '../ports.ts';

/** Bytes a millisecond; about what PCIe 5 does. */
const uploadRate = 55e6;

/** A device of nothing but its account: capacity, and how long an upload takes. */
export class SimulatedDevice implements Device {
  readonly uuid: string;
  readonly numaNode = null;
  readonly capacity: number;
  /** Bytes that are allocated; tests look whether all came back. */
  used = 0;
  /** Bytes that others took meanwhile: free memory that `memory()` reported and `allocate` no longer finds. */
  takenByOthers = 0;
  readonly #clock: Clock;

  constructor(uuid: string, capacity: number, clock: Clock) {
    this.uuid = uuid;
    this.capacity = capacity;
    this.#clock = clock;
  }

  memory(): { free: number; total: number } {
    return { free: this.capacity - this.used, total: this.capacity };
  }

  allocate(bytes: number): DeviceBuffer {
    const free = this.capacity - this.used - this.takenByOthers;
    if (bytes > free) throw new OutOfDeviceMemoryError(`${this.uuid}: ${bytes} bytes wanted, ${free} free`);
    this.used += bytes;
    let held = true;
    return {
      bytes,
      ipcHandle: new TextEncoder().encode(this.uuid),
      free: () => {
        if (held) this.used -= bytes;
        held = false;
      },
    };
  }

  async upload(transfers: readonly { readonly rectangles: Float64Array }[]): Promise<Interval> {
    let bytes = 0;
    for (const { rectangles } of transfers) {
      for (let at = 0; at < rectangles.length; at += 6) bytes += rectangles[at + 2]! * rectangles[at + 3]!;
    }
    return elapse(this.#clock, bytes / uploadRate);
  }

  async pin(): Promise<void> {}

  unpin(): void {}

  async digest(): Promise<BigUint64Array> {
    throw new Error('a simulated device has no content');
  }

  close(): void {}
}

/** Lets virtual time pass. */
export function elapse(clock: Clock, milliseconds: number): Promise<Interval> {
  const startedAt = clock.now();
  return new Promise((resolve) => {
    clock.after(milliseconds, () => resolve({ startedAt, endedAt: clock.now() }));
  });
}
