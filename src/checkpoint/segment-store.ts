import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Device } from '../native-bridge/device.ts';
import { digestTensors, Mapping, type ThreadPool } from '../native-bridge/memory.ts';
import { decodeManifest, type Manifest, type SegmentInfo } from './manifest.ts';
import { selectRows } from './manifest-rows.ts';

/** Which tensors to load; `ranges` are three numbers each, as the addon's `load` takes them. */
export interface LoadOrder {
  readonly manifest: Uint8Array;
  /** Path of the segment to make; null when all tensors lie in shared memory already. */
  readonly segment: string | null;
  readonly reads: readonly { readonly path: string; readonly ranges: Float64Array }[];
}

/** The named shared memory that a rank can reach. */
export interface SegmentStore {
  /** Maps segments of this host and readies them for uploads, each once. Rejects with `NativeError`. */
  ready(paths: Iterable<string>): Promise<void>;
  /** A segment of this host; one that is not ready uploads slowly. */
  attach(path: string): Mapping;
  /** Makes segments without content. Rejects with `NativeError`; then none of them is left behind. */
  create(segments: readonly { readonly path: string; readonly bytes: number }[]): Promise<void>;
  /** The first tensor in these segments whose bytes are not what its digest says; null if all are. */
  check(manifest: Manifest, paths: ReadonlySet<string>): Promise<string | null>;
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

/** What a store asks of the device that its segments are uploaded to. */
export type PinningDevice = Pick<Device, 'pin' | 'unpin' | 'numaNode'>;

/** The segments of one rank, in shared memory: its own, and those of other ranks of the host that it has mapped. */
export class SharedSegments implements SegmentStore {
  readonly #directory: string;
  readonly #pool: ThreadPool;
  readonly #device: PinningDevice;
  readonly #mappings = new Map<string, Mapping>();

  /**
   * Segments in `directory` are weightcast's own to remove; all others are a user's files. `device` is what they are
   * uploaded to.
   */
  constructor(directory: string, pool: ThreadPool, device: PinningDevice) {
    this.#directory = directory;
    this.#pool = pool;
    this.#device = device;
  }

  async ready(paths: Iterable<string>): Promise<void> {
    await Promise.all([...new Set(paths)].map((path) => this.#device.pin(this.attach(path))));
  }

  attach(path: string): Mapping {
    let mapping = this.#mappings.get(path);
    if (mapping === undefined) {
      mapping = Mapping.open(path, false);
      this.#mappings.set(path, mapping);
    }
    return mapping;
  }

  async create(segments: readonly { readonly path: string; readonly bytes: number }[]): Promise<void> {
    const paths = segments.map(({ path }) => path);
    try {
      for (const { path, bytes } of segments) {
        this.#mappings.set(path, Mapping.create(path, bytes, this.#device.numaNode));
      }
      await this.ready(paths);
    } catch (error) {
      this.forget(paths);
      throw error;
    }
  }

  async check(manifest: Manifest, paths: ReadonlySet<string>): Promise<string | null> {
    const wanted = (row: number) => paths.has(manifest.segments[manifest.segmentOf[row]!]!.path);
    const rows = Uint32Array.from([...manifest.names.keys()].filter(wanted));
    const part = selectRows(manifest, rows);
    const digests = await this.#digest(part, () => {});
    const bad = digests.findIndex((digest, at) => digest !== part.digests[at]);
    return bad < 0 ? null : part.names[bad]!;
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
      this.#release(path);
      // Every rank of the host does so; the first one succeeds.
      if (dirname(path) === this.#directory) rmSync(path, { force: true });
    }
  }

  close(): void {
    for (const path of this.#mappings.keys()) this.#release(path);
    this.#pool.close();
  }

  #release(path: string): void {
    const mapping = this.#mappings.get(path);
    if (mapping === undefined) return;
    this.#mappings.delete(path);
    this.#device.unpin(mapping);
    mapping.close();
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
        const segment = Mapping.create(own.path, own.bytes, this.#device.numaNode);
        this.#mappings.set(own.path, segment);
      }
      const [filled, pinned] = await Promise.allSettled([
        this.#fill(manifest, own, reads, counters, onDigested),
        this.ready(manifest.segments.map(({ path }) => path)),
      ]);
      if (filled.status === 'rejected') throw filled.reason;
      if (pinned.status === 'rejected') throw pinned.reason;
      return filled.value;
    } catch (error) {
      if (own !== undefined) this.forget([own.path]);
      throw error;
    }
  }

  async #fill(
    manifest: Manifest,
    own: SegmentInfo | undefined,
    reads: LoadOrder['reads'],
    counters: readonly Float64Array[],
    onDigested: (bytes: number) => void,
  ): Promise<BigUint64Array> {
    if (own !== undefined) {
      const segment = this.attach(own.path);
      await Promise.all(
        reads.map(({ path, ranges }, index) => this.#pool.load(path, segment, ranges, counters[index]!)),
      );
    }
    return this.#digest(manifest, onDigested);
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
