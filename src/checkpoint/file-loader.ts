import type { Mapping, ThreadPool } from '../native-bridge/memory.ts';
import { checkUntouched } from './adopted-file.ts';
import { mapBounded } from './bounded-concurrency.ts';
import { decodeIdentity } from './file-identity.ts';
import type { LoadOrder } from './segment-store.ts';

/** Enough to hide the latency of a network file system. */
const parallelChecks = 16;

/** Where tensors begin in a segment, in any order, and how long they are. */
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
   * Resolves with the digest of each tensor, computed as it was read. `progress[0]` counts up by the bytes. Rejects with
   * `NativeError`, or with a `CheckpointError` for a file that is not as it was when it was registered.
   */
  async load(
    files: LoadOrder['reads'],
    segment: Mapping,
    { offsets, bytes }: SegmentTensors,
    progress: Float64Array,
  ): Promise<BigUint64Array> {
    const digests = new BigUint64Array(bytes.length);
    // Tensors without bytes may begin where others do; their digest is 0.
    const order = [...offsets.keys()].filter((tensor) => bytes[tensor]! > 0);
    order.sort((one, other) => offsets[one]! - offsets[other]!);
    const tensors = Float64Array.from(order.flatMap((tensor) => [offsets[tensor]!, bytes[tensor]!]));
    await this.#check(files);
    const work = { files, tensors, progress, processors: this.#processors };
    const found = await this.#readers.load(segment, work);
    await this.#check(files);
    for (const [at, tensor] of order.entries()) digests[tensor] = found[at]!;
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
