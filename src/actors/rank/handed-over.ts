import type { Manifest } from '../../checkpoint/manifest.ts';
import type { DevicePlace } from '../../native-bridge/collective.ts';
import type { Device } from '../../native-bridge/device.ts';
import { wholeTensors } from '../../native-bridge/digest-parts.ts';
import { bucketTensors, type Plan } from '../../plan/plan.ts';
import type { ArrivedDigests } from '../protocol/update-values.ts';

/**
 * Digests of what a rank hands to an engine worker that does not say itself what it receives, as it lies in the link slots
 * of the device: a file that was written since it was registered shows in them, whatever its time stamps say.
 */
export class HandedOver {
  readonly #plan: Plan;
  readonly #manifest: Manifest;
  readonly #device: Device;
  readonly #digests: BigUint64Array;

  constructor(plan: Plan, manifest: Manifest, device: Device) {
    this.#plan = plan;
    this.#manifest = manifest;
    this.#device = device;
    this.#digests = new BigUint64Array(plan.tensorOrder.length);
  }

  /** Reads a bucket in its link slot, where it stays until this resolves. Rejects as `Device.digest`. */
  async digest(bucket: number, { buffer, offset }: DevicePlace): Promise<void> {
    const { rows, offsets } = bucketTensors(this.#plan, bucket);
    const parts = wholeTensors(
      offsets.map((inSlot) => offset + inSlot),
      Float64Array.from(rows, (row) => this.#manifest.bytes[row]!),
    );
    this.#digests.set(await this.#device.digest(buffer, parts), this.#plan.tensorStarts[bucket]!);
  }

  /** Of one exchange, when all buckets are digested: every tensor whole, in the order of the plan. */
  take(): ArrivedDigests {
    const rows = this.#digests.length;
    return {
      digests: this.#digests.slice(),
      part: new Uint16Array(rows),
      parts: new Uint16Array(rows).fill(1),
    };
  }
}
