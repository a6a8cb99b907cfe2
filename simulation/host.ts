import { decodeManifest, type Manifest } from '../src/checkpoint/manifest.ts';
import type { LoadJob, LoadOrder, SegmentStore } from '../src/checkpoint/segment-store.ts';
import { NativeError, OutOfHostMemoryError } from '../src/errors.ts';
import type { Clock } from '../src/ports.ts';
import { Contents, digestOf } from './contents.ts';
import { elapse } from './device.ts';

/** Bytes a millisecond that one rank reads and digests. */
const loadRate = 2e6;

/** Where the segments lie that weightcast makes; all other paths are a user's files. */
export const segmentDirectory = '/dev/shm/weightcast-simulated';

export interface SimulatedSegment {
  readonly path: string;
  readonly bytes: number;
  readonly contents: Contents;
}

/** One host: the named shared memory that outlives the processes of its ranks. */
export class SimulatedHost {
  readonly name: string;
  /** So many of the next loads fail. */
  loadFailures = 0;
  /** Bytes of shared memory that segments may take. */
  capacity = Number.POSITIVE_INFINITY;
  readonly #segments = new Map<string, SimulatedSegment>();
  readonly #isKept: boolean;
  #holders = 0;
  /** Segments that went with the last process. */
  readonly #abandoned = new Set<string>();
  #lives = 0;

  /** `isKept`: the cluster's own processes hold its memory, be there ranks or not. */
  constructor(name: string, isKept: boolean) {
    this.name = name;
    this.#isKept = isKept;
  }

  /** Paths of the segments that weightcast has made and not removed. */
  get segments(): string[] {
    return [...this.#segments.keys()].filter((path) => path.startsWith(segmentDirectory));
  }

  /** Whether the segment's file still has its name. */
  has(segment: SimulatedSegment): boolean {
    return this.#segments.get(segment.path) === segment;
  }

  /** As `SharedDirectory` has it: the last process that leaves removes everything. One that is killed just goes. */
  join(): { leave(): void; vanish(): void } {
    this.#holders += 1;
    const vanish = () => {
      this.#holders -= 1;
    };
    const leave = () => {
      vanish();
      if (this.#holders > 0 || this.#isKept) return;
      this.#lives += 1;
      for (const path of this.segments) {
        this.#segments.delete(path);
        this.#abandoned.add(path);
      }
    };
    return { leave, vanish };
  }

  /** A user's file in shared memory. */
  addFile(path: string, bytes: number): void {
    this.#create(path, bytes).contents.write(0, bytes, [{ start: 0, end: bytes, source: path, from: 0 }]);
  }

  /** The host's shared memory as one process has it, who is told of all that it unmaps. */
  open(clock: Clock, onUnmapped: (path: string) => void): SegmentStore {
    return {
      ready: async () => {},
      attach: (path) => this.#attach(path) as never,
      create: async (segments) => {
        for (const { path, bytes } of segments) this.#create(path, bytes);
      },
      check: async (manifest, paths) => this.#check(manifest, paths),
      load: (order) => this.#load(order, clock),
      forget: async (paths) => {
        for (const path of paths) {
          onUnmapped(path);
          if (path.startsWith(segmentDirectory)) this.#segments.delete(path);
        }
      },
      close: () => {},
    };
  }

  #attach(path: string): SimulatedSegment {
    const segment = this.#segments.get(path);
    if (segment === undefined) throw new NativeError(`${path}: no such file or directory on ${this.name}`);
    return segment;
  }

  /** As `SharedDirectory` has its identity. */
  get memory(): string {
    return `${this.name}, life ${this.#lives}`;
  }

  /** Whether a segment went because nobody was left to hold it. */
  isAbandoned(path: string): boolean {
    return this.#abandoned.has(path) && !this.#segments.has(path);
  }

  /** The digest of what lies there; null if there is no such segment. */
  digest(path: string, offset: number, bytes: number): bigint | null {
    const segment = this.#segments.get(path);
    return segment === undefined ? null : digestOf(segment.contents.read(offset, bytes), bytes);
  }

  /** Writes tensors of a process into a segment, as `TensorWriter` does. */
  write(path: string, bytes: number, exists: boolean, write: (contents: Contents) => void): void {
    write((exists ? this.#attach(path) : this.#create(path, bytes)).contents);
  }

  #create(path: string, bytes: number): SimulatedSegment {
    if (this.#segments.has(path)) throw new NativeError(`${path}: file exists on ${this.name}`);
    const used = [...this.#segments.values()].reduce((sum, one) => sum + one.bytes, 0);
    if (used + bytes > this.capacity) {
      throw new OutOfHostMemoryError(
        `cannot reserve ${path} on ${this.name} (${bytes} wanted, ${this.capacity - used} free)`,
      );
    }
    const segment = { path, bytes, contents: new Contents() };
    this.#segments.set(path, segment);
    return segment;
  }

  #load(order: LoadOrder, clock: Clock): LoadJob {
    const manifest = decodeManifest(order.manifest);
    const totalBytes = manifest.bytes.reduce((sum, bytes) => sum + bytes, 0);
    const startedAt = clock.now();
    const done = () => Math.min(totalBytes, (clock.now() - startedAt) * loadRate);
    return { totalBytes, doneBytes: done, digests: this.#digests(manifest, order, totalBytes, clock) };
  }

  async #digests(
    manifest: Manifest,
    { segment: path, exists, reads, digest }: LoadOrder,
    totalBytes: number,
    clock: Clock,
  ): Promise<BigUint64Array> {
    const own = manifest.segments.find((segment) => segment.path === path);
    const segment = own && (exists ? this.#attach(own.path) : this.#create(own.path, own.bytes));
    // Nothing of what it held can be counted on from here.
    segment?.contents.erase(0, segment.bytes);
    await elapse(clock, totalBytes / loadRate);
    if (this.loadFailures > 0) {
      this.loadFailures -= 1;
      if (own !== undefined && !exists) this.#segments.delete(own.path);
      throw new NativeError(`a load on ${this.name} failed: input/output error`);
    }
    for (const { path: file, ranges } of reads) {
      for (let at = 0; at < ranges.length; at += 3) {
        const [from, to, bytes] = ranges.subarray(at, at + 3);
        segment!.contents.write(to!, bytes!, [{ start: 0, end: bytes!, source: file, from: from! }]);
      }
    }
    if (!digest) return manifest.digests;
    return BigUint64Array.from(manifest.names, (_, row) => this.#digestOf(manifest, row));
  }

  #check(manifest: Manifest, paths: ReadonlySet<string>): string | null {
    const bad = manifest.names.find((_, row) => {
      if (!paths.has(manifest.segments[manifest.segmentOf[row]!]!.path)) return false;
      return this.#digestOf(manifest, row) !== manifest.digests[row];
    });
    return bad ?? null;
  }

  #digestOf(manifest: Manifest, row: number): bigint {
    const { path } = this.#attach(manifest.segments[manifest.segmentOf[row]!]!.path);
    return this.digest(path, manifest.offsets[row]!, manifest.bytes[row]!)!;
  }
}
