import { decodeManifest, type Manifest } from '../checkpoint/manifest.ts';
import type { LoadJob, LoadOrder, SegmentStore } from '../checkpoint/segment-store.ts';
import { NativeError } from '../errors.ts';
import type { Clock } from '../ports.ts';
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
  readonly #segments = new Map<string, SimulatedSegment>();
  readonly #isKept: boolean;
  #holders = 0;

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
      if (this.#holders === 0 && !this.#isKept) for (const path of this.segments) this.#segments.delete(path);
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
      forget: (paths) => {
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

  #create(path: string, bytes: number): SimulatedSegment {
    if (this.#segments.has(path)) throw new NativeError(`${path}: file exists on ${this.name}`);
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
    { segment: path, reads }: LoadOrder,
    totalBytes: number,
    clock: Clock,
  ): Promise<BigUint64Array> {
    const own = manifest.segments.find((segment) => segment.path === path);
    const segment = own === undefined ? null : this.#create(own.path, own.bytes);
    await elapse(clock, totalBytes / loadRate);
    if (this.loadFailures > 0) {
      this.loadFailures -= 1;
      if (own !== undefined) this.#segments.delete(own.path);
      throw new NativeError(`a load on ${this.name} failed: input/output error`);
    }
    for (const { path: file, ranges } of reads) {
      for (let at = 0; at < ranges.length; at += 3) {
        const [from, to, bytes] = ranges.subarray(at, at + 3);
        segment!.contents.write(to!, bytes!, [{ start: 0, end: bytes!, source: file, from: from! }]);
      }
    }
    return BigUint64Array.from(manifest.names, (_, row) => this.#digest(manifest, row));
  }

  #check(manifest: Manifest, paths: ReadonlySet<string>): string | null {
    const bad = manifest.names.find((_, row) => {
      if (!paths.has(manifest.segments[manifest.segmentOf[row]!]!.path)) return false;
      return this.#digest(manifest, row) !== manifest.digests[row];
    });
    return bad ?? null;
  }

  #digest(manifest: Manifest, row: number): bigint {
    const { contents } = this.#attach(manifest.segments[manifest.segmentOf[row]!]!.path);
    const bytes = manifest.bytes[row]!;
    return digestOf(contents.read(manifest.offsets[row]!, bytes), bytes);
  }
}
