import type { CudaDevice } from '../../src/native-bridge/cuda-device.ts';
import type { Mapping } from '../../src/native-bridge/memory.ts';

/** What the link to a GPU can do: uploads from pinned memory, queued one behind the other, with nothing else to do. */
export class LinkLimit {
  readonly #device: CudaDevice;
  readonly #mappings: readonly Mapping[];

  private constructor(device: CudaDevice, mappings: readonly Mapping[]) {
    this.#device = device;
    this.#mappings = mappings;
  }

  static async prepare(device: CudaDevice, mappings: readonly Mapping[]): Promise<LinkLimit> {
    await Promise.all(mappings.map((mapping) => device.pin(mapping)));
    return new LinkLimit(device, mappings);
  }

  /** Bytes a second, over all files, each in one copy. */
  async measure(): Promise<number> {
    const buffer = this.#device.allocate(Math.max(...this.#mappings.map(({ bytes }) => bytes)));
    const intervals = await Promise.all(
      this.#mappings.map((segment) => {
        const { bytes } = segment;
        return this.#device.upload(
          [{ segment, rectangles: Float64Array.of(0, 0, bytes, 1, bytes, bytes) }],
          buffer,
        );
      }),
    );
    buffer.free();
    const milliseconds = intervals.at(-1)!.endedAt - intervals[0]!.startedAt;
    return this.#mappings.reduce((sum, { bytes }) => sum + bytes, 0) / (milliseconds / 1_000);
  }
}
