import type { Manifest } from '../../checkpoint/manifest.ts';
import { NativeError } from '../../errors.ts';
import type { DevicePlace } from '../../native-bridge/collective.ts';
import type { Device, DeviceBuffer } from '../../native-bridge/device.ts';
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
  #unable: string | null = null;

  constructor(plan: Plan, manifest: Manifest, device: Device) {
    this.#plan = plan;
    this.#manifest = manifest;
    this.#device = device;
    this.#digests = new BigUint64Array(plan.tensorOrder.length);
  }

  /**
   * Why the device takes no digests, if it takes none: GPUs older than those that the kernel was compiled for (sm_70) are
   * updated as others are, but nothing is proved of what arrived.
   */
  get unable(): string | null {
    return this.#unable;
  }

  /**
   * Before an engine is paused: a GPU takes the first time 0.2 seconds more, to compile. Rejects with
   * `OutOfDeviceMemoryError`.
   */
  async prepare(buffer: DeviceBuffer): Promise<void> {
    const parts = wholeTensors(Float64Array.of(0), Float64Array.of(Math.min(8, buffer.bytes)));
    try {
      await this.#device.digest(buffer, parts);
    } catch (error) {
      if (!(error instanceof NativeError)) throw error;
      this.#unable = error.message;
    }
  }

  /** Reads a bucket in its link slot, where it stays until this resolves. Rejects as `Device.digest`. */
  async digest(bucket: number, { buffer, offset }: DevicePlace): Promise<void> {
    if (this.#unable !== null) return;
    const { rows, offsets } = bucketTensors(this.#plan, bucket);
    const parts = wholeTensors(
      offsets.map((inSlot) => offset + inSlot),
      Float64Array.from(rows, (row) => this.#manifest.bytes[row]!),
    );
    this.#digests.set(await this.#device.digest(buffer, parts), this.#plan.tensorStarts[bucket]!);
  }

  /** Of one exchange, when all buckets are digested: every tensor whole, in the order of the plan. Null if the device takes none. */
  take(): ArrivedDigests | null {
    if (this.#unable !== null) return null;
    const rows = this.#digests.length;
    return {
      digests: this.#digests.slice(),
      part: new Uint16Array(rows),
      parts: new Uint16Array(rows).fill(1),
    };
  }
}
