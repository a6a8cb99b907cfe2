import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { digestTensors, Mapping, type ThreadPool } from '../native-bridge/memory.ts';
import { decodeManifest, type Manifest } from './manifest.ts';

/** Which tensors to load; `ranges` are three numbers each, as the addon's `load` takes them. */
export interface LoadOrder {
  readonly manifest: Uint8Array;
  /** Path of the segment to make; null when all tensors lie in shared memory already. */
  readonly segment: string | null;
  readonly reads: readonly { readonly path: string; readonly ranges: Float64Array }[];
}

/** The named shared memory that a rank can reach. */
export interface SegmentStore {
  /** Maps a segment of this host, once; later calls return the same mapping. */
  attach(path: string): Mapping;
  /** Makes this rank's segment, reads files into it and digests all its tensors. Ends early when that is forgotten. */
  load(order: LoadOrder): LoadJob;
  /** Unmaps segments, and removes those that weightcast made; a user's files stay. */
  forget(paths: readonly string[]): void;
  close(): void;
}

export interface LoadJob {
  /** What is read and what is digested. */
  readonly totalBytes: number;
  doneBytes(): number;
  /** One digest a tensor, in the manifest's order. Rejects with `NativeError`; then nothing is left behind. */
  readonly digests: Promise<BigUint64Array>;
}

/** The segments of one rank, in shared memory: its own, and those of other ranks of the host that it has mapped. */
export class SharedSegments implements SegmentStore {
  readonly #directory: string;
  readonly #pool: ThreadPool;
  readonly #numaNode: number | null;
  readonly #mappings = new Map<string, Mapping>();

  /**
   * Segments in `directory` are weightcast's own to remove; all others are a user's files. Those it makes lie on
   * `numaNode`, as `Device.numaNode` has it.
   */
  constructor(directory: string, pool: ThreadPool, numaNode: number | null = null) {
    this.#directory = directory;
    this.#pool = pool;
    this.#numaNode = numaNode;
  }

  attach(path: string): Mapping {
    let mapping = this.#mappings.get(path);
    if (mapping === undefined) {
      mapping = Mapping.open(path, false);
      this.#mappings.set(path, mapping);
    }
    return mapping;
  }

  load(order: LoadOrder): LoadJob {
    const manifest = decodeManifest(order.manifest);
    const readBytes = order.reads.reduce((sum, { ranges }) => sum + bytesIn(ranges), 0);
    const counters = order.reads.map(() => new Float64Array(1));
    let digestedBytes = 0;
    const digests = this.#load(manifest, order, counters, (bytes) => {
      digestedBytes += bytes;
    });
    return {
      totalBytes: readBytes + manifest.bytes.reduce((sum, bytes) => sum + bytes, 0),
      doneBytes: () => counters.reduce((sum, [bytes]) => sum + bytes!, digestedBytes),
      digests,
    };
  }

  forget(paths: readonly string[]): void {
    for (const path of paths) {
      this.#mappings.get(path)?.close();
      this.#mappings.delete(path);
      // Every rank of the host does so; the first one succeeds.
      if (dirname(path) === this.#directory) rmSync(path, { force: true });
    }
  }

  close(): void {
    for (const mapping of this.#mappings.values()) mapping.close();
    this.#mappings.clear();
    this.#pool.close();
  }

  async #load(
    manifest: Manifest,
    { segment: path, reads }: LoadOrder,
    counters: readonly Float64Array[],
    onDigested: (bytes: number) => void,
  ): Promise<BigUint64Array> {
    const own = manifest.segments.find((segment) => segment.path === path);
    try {
      if (own !== undefined) {
        const segment = Mapping.create(own.path, own.bytes, this.#numaNode);
        this.#mappings.set(own.path, segment);
        await Promise.all(
          reads.map(({ path, ranges }, index) => this.#pool.load(path, segment, ranges, counters[index]!)),
        );
      }
      return await this.#digest(manifest, onDigested);
    } catch (error) {
      if (own !== undefined) this.forget([own.path]);
      throw error;
    }
  }

  async #digest(manifest: Manifest, onDigested: (bytes: number) => void): Promise<BigUint64Array> {
    const digests = new BigUint64Array(manifest.names.length);
    for (const [index, { path }] of manifest.segments.entries()) {
      const rows = [...manifest.segmentOf.keys()].filter((row) => manifest.segmentOf[row] === index);
      const bytes = Float64Array.from(rows, (row) => manifest.bytes[row]!);
      const offsets = Float64Array.from(rows, (row) => manifest.offsets[row]!);
      if (rows.length === 0) continue;
      const found = await digestTensors(this.#pool, this.attach(path), offsets, bytes);
      for (const [at, row] of rows.entries()) digests[row] = found[at]!;
      onDigested(bytes.reduce((sum, value) => sum + value, 0));
    }
    return digests;
  }
}

function bytesIn(ranges: Float64Array): number {
  let bytes = 0;
  for (let at = 2; at < ranges.length; at += 3) bytes += ranges[at]!;
  return bytes;
}
