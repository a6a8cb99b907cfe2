import assert from 'node:assert/strict';
import { type Mapping, ThreadPool } from '../native-bridge/memory.ts';
import { checkUntouched } from './adopted-file.ts';
import { decodeIdentity } from './file-identity.ts';
import type { LoadOrder } from './segment-store.ts';

/**
 * Reads of a rank that are under way at once, 4 MiB each. Eight ranks of a host keep 512 MiB under way, which is more than any
 * storage brings in the time that one read takes; a thread that waits costs nothing.
 */
const readsUnderWay = 16;

/** Tensors of a segment: where they begin in it, and how long they are. */
export interface SegmentTensors {
  readonly offsets: Float64Array;
  readonly bytes: Float64Array;
}

/** Reads files into segments. */
export class FileLoader {
  readonly #host: string;
  readonly #processors: number;
  /** Most ranks never read a file. */
  #pool: ThreadPool | null = null;

  /** `host` is its name in errors; `processors`: how many threads may compute at once. */
  constructor(host: string, processors: number) {
    this.#host = host;
    this.#processors = processors;
  }

  /**
   * Resolves with the digest of each tensor, computed as it was read. `progress[0]` counts up by the bytes. Rejects with
   * `NativeError`, or with a `CheckpointError` for a file that is not as it was when it was registered.
   */
  async load(
    reads: LoadOrder['reads'],
    segment: Mapping,
    tensors: SegmentTensors,
    progress: Float64Array,
  ): Promise<BigUint64Array> {
    this.#pool ??= new ThreadPool(readsUnderWay);
    const pool = this.#pool;
    const digests = new BigUint64Array(tensors.bytes.length);
    const tensorsOf = tensorsOfReads(reads, tensors);
    await Promise.all(
      reads.map(async ({ path, identity: encoded, ranges }, read) => {
        const positions = tensorsOf[read]!;
        const places = positions.flatMap((position) => [
          tensors.offsets[position]!,
          tensors.bytes[position]!,
        ]);
        const identity = decodeIdentity(encoded);
        await checkUntouched(path, identity, this.#host);
        const work = { ranges, tensors: Float64Array.from(places), progress, processors: this.#processors };
        const found = await pool.load(path, segment, work);
        await checkUntouched(path, identity, this.#host);
        for (const [at, position] of positions.entries()) digests[position] = found[at]!;
      }),
    );
    return digests;
  }

  close(): void {
    this.#pool?.close();
  }
}

/** Bytes of all ranges. */
export function bytesOf(reads: LoadOrder['reads']): number {
  let bytes = 0;
  for (const { ranges } of reads) {
    for (let at = 2; at < ranges.length; at += 3) bytes += ranges[at]!;
  }
  return bytes;
}

/** Of each read, the tensors that it brings, in the order of their offsets. Those without bytes come from none. */
function tensorsOfReads(reads: LoadOrder['reads'], { offsets, bytes }: SegmentTensors): number[][] {
  const brought: number[][] = reads.map(() => []);
  const runs = reads.flatMap(({ ranges }, read) =>
    Array.from({ length: ranges.length / 3 }, (_, index) => {
      const begin = ranges[3 * index + 1]!;
      return { read, begin, end: begin + ranges[3 * index + 2]! };
    }),
  );
  runs.sort((one, other) => one.begin - other.begin);
  const positions = [...offsets.keys()].filter((position) => bytes[position]! > 0);
  positions.sort((one, other) => offsets[one]! - offsets[other]!);
  let at = 0;
  for (const position of positions) {
    while (at < runs.length && runs[at]!.end <= offsets[position]!) at += 1;
    const run = runs[at];
    assert(run !== undefined && run.begin <= offsets[position]!, 'every tensor of a segment is read');
    brought[run.read]!.push(position);
  }
  return brought;
}
