import { createHash } from 'node:crypto';
import { adoptedSegment } from '../src/checkpoint/file-identity.ts';
import type { HostDocuments } from '../src/checkpoint/host-documents.ts';
import { decodeManifest, type Manifest } from '../src/checkpoint/manifest.ts';
import {
  isBefore,
  type LoadJob,
  type LoadOrder,
  type SegmentStore,
} from '../src/checkpoint/segment-store.ts';
import type { SourceFile } from '../src/checkpoint/source.ts';
import { NativeError, OutOfHostMemoryError } from '../src/errors.ts';
import type { Clock } from '../src/ports.ts';
import { elapse } from './clock.ts';
import { asMapping, type Contents, digestOf, SimulatedSegment } from './contents.ts';

/** Bytes per millisecond that one rank reads and digests. */
const loadRate = 2e6;

/** Where weightcast creates its segments; all other paths are a user's files. */
export const segmentDirectory = '/dev/shm/weightcast-simulated';

/** One host: its named shared memory, which outlives the processes of its ranks. */
export class SimulatedHost {
  readonly name: string;
  /** How many of the next loads fail. */
  loadFailures = 0;
  /** How many of the next documents cannot be written. */
  documentFailures = 0;
  /** Bytes of shared memory that segments may take. */
  capacity = Number.POSITIVE_INFINITY;
  readonly #segments = new Map<string, SimulatedSegment>();
  readonly #documents = new Map<string, Uint8Array>();
  readonly #hasSupervisor: boolean;
  #holders = 0;
  /** Segments that were removed with the last process of the host. */
  readonly #abandoned = new Set<string>();
  #incarnation = 0;

  /** `hasSupervisor`: the cluster's own processes keep its segments, with or without ranks. */
  constructor(name: string, hasSupervisor: boolean) {
    this.name = name;
    this.#hasSupervisor = hasSupervisor;
  }

  /** Paths of the segments that weightcast has created and not removed. */
  get segments(): string[] {
    return [...this.#segments.keys()].filter((path) => path.startsWith(segmentDirectory));
  }

  /** Whether the segment's file still has its name. */
  has(segment: SimulatedSegment): boolean {
    return this.#segments.get(segment.path) === segment;
  }

  /** As in `SharedDirectory`: the last process that leaves removes everything. `vanish` is for one that was killed. */
  join(): { leave(): void; vanish(): void } {
    this.#holders += 1;
    const vanish = () => {
      this.#holders -= 1;
    };
    const leave = () => {
      vanish();
      if (this.#holders > 0 || this.#hasSupervisor) return;
      this.#incarnation += 1;
      this.#documents.clear();
      for (const path of this.segments) {
        this.#segments.delete(path);
        this.#abandoned.add(path);
      }
    };
    return { leave, vanish };
  }

  /** Creates a user's file in shared memory. */
  addFile({ path, identity, bytes }: SourceFile): void {
    this.#create(adoptedSegment(path, identity), bytes).contents.write(0, bytes, [
      { start: 0, end: bytes, source: path, from: 0 },
    ]);
  }

  /** How many documents lie in its directory. */
  get documentCount(): number {
    return this.#documents.size;
  }

  get documents(): HostDocuments {
    return {
      write: ({ path, bytes }, offset, piece) => {
        if (this.documentFailures > 0) {
          this.documentFailures -= 1;
          throw new NativeError(`cannot write ${path}: no space left on ${this.name}`);
        }
        const content = offset === 0 ? new Uint8Array(bytes) : this.#documents.get(path);
        if (content === undefined) throw new NativeError(`${path} is gone while it is written`);
        content.set(piece, offset);
        this.#documents.set(path, content);
      },
      read: async ({ path, digest }) => {
        const content = this.#documents.get(path);
        if (content !== undefined && createHash('sha256').update(content).digest('hex') === digest)
          return content;
        throw new NativeError(`${path} is not there, or not whole`);
      },
    };
  }

  /** The host's shared memory as one process sees it; `onUnmapped` is called with every path that it unmaps. */
  open(clock: Clock, onUnmapped: (path: string) => void): SegmentStore {
    return {
      ready: async () => {},
      attach: (path) => asMapping(this.#attach(path)),
      source: (path) => asMapping(this.#attach(path)),
      create: async (segments) => {
        for (const { path, bytes } of segments) this.#create(path, bytes);
      },
      // Nobody replaces a file.
      examine: async (files) => files.map(({ known }) => ({ identity: known, problem: null })),
      confirm: async () => true,
      check: async (manifest, paths) => this.#check(manifest, paths),
      load: (order) => this.#load(order, clock),
      forget: async (paths) => {
        for (const path of paths) {
          onUnmapped(path);
          if (path.startsWith(segmentDirectory)) this.#segments.delete(path);
          this.#documents.delete(path);
        }
      },
      leftBefore: (last) =>
        [...this.segments, ...this.#documents.keys()].filter((path) => isBefore(path, last)),
      close: () => {},
    };
  }

  #attach(path: string): SimulatedSegment {
    const segment = this.#segments.get(path);
    if (segment === undefined) throw new NativeError(`${path}: no such file or directory on ${this.name}`);
    return segment;
  }

  /** As in `SharedDirectory`: changes when the directory is removed and created again. */
  get memory(): string {
    return `${this.name}, incarnation ${this.#incarnation}`;
  }

  /** Whether a segment was removed with the last process of the host. */
  isAbandoned(path: string): boolean {
    return this.#abandoned.has(path) && !this.#segments.has(path);
  }

  /** The digest of a range of a segment; null if there is no such segment. */
  digest(path: string, offset: number, bytes: number): bigint | null {
    const segment = this.#segments.get(path);
    return segment === undefined ? null : digestOf(segment.contents.read(offset, bytes));
  }

  /** Writes tensors from a process's memory into a segment, as `TensorWriter` does. */
  write(path: string, bytes: number, exists: boolean, write: (contents: Contents) => void): void {
    write((exists ? this.#attach(path) : this.#create(path, bytes)).contents);
  }

  /** As a process does that has created segments. */
  remove(path: string): void {
    this.#segments.delete(path);
  }

  #create(path: string, bytes: number): SimulatedSegment {
    if (this.#segments.has(path)) throw new NativeError(`${path}: file exists on ${this.name}`);
    const used = [...this.#segments.values()].reduce((sum, one) => sum + one.bytes, 0);
    if (used + bytes > this.capacity) {
      throw new OutOfHostMemoryError(
        `cannot reserve ${path} on ${this.name} (${bytes} wanted, ${this.capacity - used} free)`,
      );
    }
    const segment = new SimulatedSegment(path, bytes);
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
    // The old contents of a reused segment are undefined from here on.
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
