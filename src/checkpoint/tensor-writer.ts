import { rmSync } from 'node:fs';
import { NativeError } from '../errors.ts';
import { Mapping, ThreadPool } from '../native-bridge/memory.ts';
import { encodeManifest } from './manifest.ts';
import { describeTensors, type NamedTensors, sizesOfTensors, type TensorSegment } from './named-tensors.ts';

/** The progress of one segment's share of a write. */
export interface WriteProgress {
  readonly rank: number;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface WriteJob {
  progress(): WriteProgress[];
  /**
   * The encoded manifest, with digests. Rejects with `OutOfHostMemoryError` or `NativeError`; then it leaves no new
   * segments behind.
   */
  readonly manifest: Promise<Uint8Array>;
}

/**
 * Copies tensors of this process into segments, on all cores that it may use. Segments stay mapped until they are
 * released, because mapping a segment again costs more than filling it again.
 */
export class TensorWriter {
  readonly #threads: number;
  readonly #mappings = new Map<string, Mapping>();

  constructor(threads: number) {
    this.#threads = threads;
  }

  /** `exists`: the segments exist, of the right sizes, and are written over. */
  write(
    checkpoint: string,
    tensors: NamedTensors,
    segments: readonly TensorSegment[],
    exists: boolean,
  ): WriteJob {
    const counters = segments.map(() => new Float64Array(1));
    return {
      // A segment has some bytes more than its tensors, which begin on multiples of 256.
      progress: () =>
        segments.map(({ rank, bytes }, index) => ({
          rank,
          doneBytes: counters[index]![0]!,
          totalBytes: exists ? bytes : 2 * bytes,
        })),
      manifest: this.#write(checkpoint, tensors, segments, exists, counters),
    };
  }

  /** Unmaps and removes segments that no rank knows of. */
  remove(paths: readonly string[]): void {
    this.forget(paths);
    for (const path of paths) rmSync(path, { force: true });
  }

  /** Unmaps segments; they are removed by the ranks. */
  forget(paths: readonly string[]): void {
    for (const path of paths) {
      this.#mappings.get(path)?.close();
      this.#mappings.delete(path);
    }
  }

  close(): void {
    this.forget([...this.#mappings.keys()]);
  }

  async #write(
    checkpoint: string,
    tensors: NamedTensors,
    segments: readonly TensorSegment[],
    exists: boolean,
    counters: readonly Float64Array[],
  ): Promise<Uint8Array> {
    const pool = new ThreadPool(this.#threads);
    try {
      const manifest = describeTensors(checkpoint, tensors, sizesOfTensors(checkpoint, tensors), segments);
      const mappings = exists
        ? segments.map((segment) => this.#attach(segment))
        : await this.#make(segments, pool, counters);
      const sources = Object.values(tensors).map(({ data }) => data);
      let start = 0;
      const written = segments.map(async (segment, index) => {
        const [from, to] = [start, start + segment.tensors];
        start = to;
        const offsets = manifest.offsets.slice(from, to);
        const digests = await pool.write(
          sources.slice(from, to),
          mappings[index]!,
          offsets,
          counters[index]!,
        );
        manifest.digests.set(digests, from);
      });
      await Promise.all(written);
      return encodeManifest(manifest);
    } finally {
      pool.close();
    }
  }

  async #make(
    segments: readonly TensorSegment[],
    pool: ThreadPool,
    counters: readonly Float64Array[],
  ): Promise<Mapping[]> {
    const made = await Promise.allSettled(
      segments.map(({ path, bytes }, index) => {
        return Mapping.reserve(path, bytes, { pool, progress: counters[index]! });
      }),
    );
    const mappings = made.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
    const failed = made.find((outcome) => outcome.status === 'rejected');
    if (failed !== undefined) {
      for (const mapping of mappings) {
        mapping.unlink();
        mapping.close();
      }
      throw failed.reason;
    }
    for (const mapping of mappings) this.#mappings.set(mapping.path, mapping);
    return mappings;
  }

  #attach({ path, bytes }: TensorSegment): Mapping {
    let mapping = this.#mappings.get(path);
    if (mapping === undefined) {
      mapping = Mapping.open(path, true);
      this.#mappings.set(path, mapping);
    }
    if (mapping.bytes !== bytes) throw new NativeError(`${path} has ${mapping.bytes} bytes, not ${bytes}`);
    return mapping;
  }
}
