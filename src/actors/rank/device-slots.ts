import { strict as assert } from 'node:assert';
import type { DevicePlace } from '../../native-bridge/collective.ts';
import type { Device, DeviceBuffer } from '../../native-bridge/device.ts';
import { linkSlotCount, type Plan, stagingSlotCount } from '../../plan/plan.ts';

/**
 * The device memory of one exchange. Link slots lie in one buffer, which the engine worker reads from; a rank that is
 * not alone stages its own buckets in a second one.
 */
export class DeviceSlots {
  readonly link: DeviceBuffer;
  readonly #plan: Plan;
  #staging: DeviceBuffer | null;

  private constructor(plan: Plan, link: DeviceBuffer, staging: DeviceBuffer | null) {
    this.#plan = plan;
    this.link = link;
    this.#staging = staging;
  }

  /** `owned`: how many buckets this rank uploads. On a throw (`OutOfDeviceMemoryError`) nothing stays allocated. */
  static allocate(plan: Plan, owned: number, device: Device): DeviceSlots {
    const link = device.allocate(linkSlotCount(plan) * plan.slotBytes);
    try {
      const slots = Math.min(stagingSlotCount(plan), owned);
      return new DeviceSlots(plan, link, slots > 0 ? device.allocate(slots * plan.slotBytes) : null);
    } catch (error) {
      link.free();
      throw error;
    }
  }

  /** 0 once they have been released. */
  get stagingCount(): number {
    return this.#staging === null ? 0 : stagingSlotCount(this.#plan);
  }

  linkPlace(slot: number): DevicePlace {
    return { buffer: this.link, offset: slot * this.#plan.slotBytes };
  }

  stagingPlace(slot: number): DevicePlace {
    assert(this.#staging !== null, 'the staging slots have been released');
    return { buffer: this.#staging, offset: slot * this.#plan.slotBytes };
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
