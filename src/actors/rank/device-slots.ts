import { strict as assert } from 'node:assert';
import type { DevicePlace } from '../../native-bridge/collective.ts';
import type { Device, DeviceBuffer } from '../../native-bridge/device.ts';
import type { SlotMap } from './slot-map.ts';

/**
 * The device memory of one exchange. The link slots are one buffer, which the engine worker reads from, the one for
 * large buckets at its end; the staging slots, where there are any, are another one.
 */
export class DeviceSlots {
  readonly link: DeviceBuffer;
  readonly #map: SlotMap;
  #staging: DeviceBuffer | null;

  private constructor(map: SlotMap, link: DeviceBuffer, staging: DeviceBuffer | null) {
    this.#map = map;
    this.link = link;
    this.#staging = staging;
  }

  /** On a throw (`OutOfDeviceMemoryError`) nothing stays allocated. */
  static allocate(map: SlotMap, device: Device): DeviceSlots {
    const { linkSlots, stagingSlots, plan } = map;
    const link = device.allocate(linkSlots * plan.slotBytes + plan.largeSlotBytes);
    try {
      const staging = stagingSlots > 0 ? device.allocate(stagingSlots * plan.slotBytes) : null;
      return new DeviceSlots(map, link, staging);
    } catch (error) {
      link.free();
      throw error;
    }
  }

  /** 0 once they have been released. */
  get stagingSlots(): number {
    return this.#staging === null ? 0 : this.#map.stagingSlots;
  }

  linkPlace(bucket: number): DevicePlace {
    return { buffer: this.link, offset: this.#map.linkSlot(bucket) * this.#map.plan.slotBytes };
  }

  stagingPlace(bucket: number): DevicePlace {
    assert(this.#staging !== null, 'the staging slots have been released');
    return { buffer: this.#staging, offset: this.#map.stagingSlot(bucket) * this.#map.plan.slotBytes };
  }

  /** Frees the staging slots alone. May be called twice. */
  releaseStaging(): void {
    this.#staging?.free();
    this.#staging = null;
  }

  /** Frees everything. May be called twice. */
  free(): void {
    this.releaseStaging();
    this.link.free();
  }
}
