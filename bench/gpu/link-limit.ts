import { CudaDevice } from '../../src/native-bridge/cuda-device.ts';
import type { Mapping } from '../../src/native-bridge/memory.ts';

/** More threads do not pin faster. */
const pinThreads = 8;

interface Link {
  readonly device: CudaDevice;
  readonly mappings: readonly Mapping[];
}

/**
 * The limit of the links to several GPUs together: queued uploads from pinned memory, with nothing else running. The files
 * are spread over the GPUs.
 */
export class LinkLimit {
  readonly #links: readonly Link[];

  private constructor(links: readonly Link[]) {
    this.#links = links;
  }

  static async prepare(indices: readonly number[], mappings: readonly Mapping[]): Promise<LinkLimit> {
    const links = indices.map((index, turn) => ({
      device: CudaDevice.open({ index, pinThreads }),
      mappings: mappings.filter((_, at) => at % indices.length === turn),
    }));
    const pins = links.flatMap((link) => link.mappings.map((mapping) => link.device.pin(mapping)));
    await Promise.all(pins);
    return new LinkLimit(links);
  }

  /** Bytes per second over all files, each in one copy. */
  async measure(): Promise<number> {
    const all = await Promise.all(this.#links.map(uploadAll));
    const start = Math.min(...all.flat().map(({ startedAt }) => startedAt));
    const end = Math.max(...all.flat().map(({ endedAt }) => endedAt));
    const bytes = this.#links.flatMap(({ mappings }) => mappings).reduce((sum, one) => sum + one.bytes, 0);
    return bytes / ((end - start) / 1_000);
  }

  close(): void {
    for (const { device } of this.#links) device.close();
  }
}

async function uploadAll({ device, mappings }: Link) {
  const buffer = device.allocate(Math.max(...mappings.map(({ bytes }) => bytes)));
  const uploads = mappings.map((segment) => {
    const { bytes } = segment;
    const whole = Float64Array.of(0, 0, bytes, 1, bytes, bytes);
    return device.upload([{ segment, rectangles: whole }], buffer);
  });
  const intervals = await Promise.all(uploads);
  buffer.free();
  return intervals;
}
