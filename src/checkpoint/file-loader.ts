import { AbortedError } from '../errors.ts';
import type { Mapping, ThreadPool } from '../native-bridge/memory.ts';
import { checkUntouched } from './adopted-file.ts';
import { mapBounded } from './bounded-concurrency.ts';
import { decodeIdentity } from './file-identity.ts';
import { loadSteps } from './load-steps.ts';
import type { LoadOrder } from './segment-store.ts';

/** Enough to hide the latency of a network file system. */
const parallelChecks = 16;

/**
 * Bytes of a segment that are loaded as one part, when they have their pages. A load that fails, or is not wanted any more, ends
 * with the parts that are under way.
 */
export const stepBytes = 128 * 2 ** 20;
/** So that readers which find nothing more to do in a part begin the next one. */
const parallelParts = 2;

/** A segment to load into, whose pages may still be coming. */
export interface Fillable {
  readonly segment: Mapping;
  /** One for each {@link stepBytes}, resolved when these pages are there, one after the other; none if all are. */
  readonly steps: readonly Promise<unknown>[];
  /** False when the segment is not to be filled any more. */
  readonly isWanted: () => boolean;
}

/** Where the tensors of a segment begin in it, in any order, and how long they are. */
export interface SegmentTensors {
  readonly offsets: Float64Array;
  readonly bytes: Float64Array;
}

/** Reads files into segments. */
export class FileLoader {
  readonly #host: string;
  readonly #readers: ThreadPool;
  readonly #processors: number;

  /** `host` is its name in errors; `readers` mostly wait for storage; of them `processors` may compute at once. */
  constructor(host: string, readers: ThreadPool, processors: number) {
    this.#host = host;
    this.#readers = readers;
    this.#processors = processors;
  }

  /**
   * Resolves with the digest of each tensor, computed as it was read, or with zeros if `digest` is false. `progress[0]` counts
   * up by the bytes. Rejects with `NativeError`, or with a `CheckpointError` for a file that is not as it was when it was
   * registered.
   */
  async load(
    { reads, digest }: LoadOrder,
    fillable: Fillable,
    { offsets, bytes }: SegmentTensors,
    progress: Float64Array,
  ): Promise<BigUint64Array> {
    // The digest of tensors without bytes is 0.
    const order = [...offsets.keys()].filter((tensor) => bytes[tensor]! > 0);
    order.sort((one, other) => offsets[one]! - offsets[other]!);
    const places = order.flatMap((tensor) => [offsets[tensor]!, bytes[tensor]!]);
    await this.#check(reads);
    const parts = loadSteps(reads, places, stepBytes);
    const found = await mapBounded(parts, parallelParts, async ({ step, files, tensors }) => {
      await fillable.steps[step];
      const { segment, isWanted } = fillable;
      if (!isWanted()) throw new AbortedError(`${segment.path} was released while it was filled`);
      const digested = Float64Array.from(digest ? tensors : []);
      const work = { files, tensors: digested, progress, processors: this.#processors };
      return this.#readers.load(segment, work);
    });
    await this.#check(reads);
    const digests = new BigUint64Array(bytes.length);
    for (const [at, one] of found.flatMap((ofPart) => [...ofPart]).entries()) digests[order[at]!] = one;
    return digests;
  }

  close(): void {
    this.#readers.close();
  }

  async #check(files: LoadOrder['reads']): Promise<void> {
    await mapBounded(files, parallelChecks, ({ path, identity }) =>
      checkUntouched(path, decodeIdentity(identity), this.#host),
    );
  }
}

/** Bytes of all ranges. */
export function bytesOf(files: LoadOrder['reads']): number {
  let bytes = 0;
  for (const { ranges } of files) {
    for (let at = 2; at < ranges.length; at += 3) bytes += ranges[at]!;
  }
  return bytes;
}
