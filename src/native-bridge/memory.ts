import { statSync } from 'node:fs';
import { join } from 'node:path';
import {
  addon,
  type Interval,
  type NativeMapping,
  type NativeSharedDirectory,
  type NativeThreadPool,
} from './addon.ts';
import { awaitNative, callNative } from './call.ts';
import { wholeTensors } from './digest-parts.ts';

/**
 * A directory in /dev/shm that lives as long as the last process that has it open, however that process ends. The
 * holder keeps the object: one that is garbage collected has left.
 */
export class SharedDirectory {
  readonly #native: NativeSharedDirectory;

  /** Makes the directory (mode 0700) if it is missing, and joins it. Throws `NativeError`. */
  constructor(path: string) {
    this.#native = callNative(() => new addon.SharedDirectory(path));
  }

  /** Removes the directory and its files if no live process holds it. True if it was removed. */
  static removeIfAbandoned(path: string): boolean {
    return callNative(() => addon.SharedDirectory.removeIfAbandoned(path));
  }

  get path(): string {
    return this.#native.path;
  }

  /** The same for all who hold it, and never again once it was removed. */
  get identity(): string {
    return String(statSync(join(this.path, 'lock'), { bigint: true }).ino);
  }

  /**
   * Leaves; the last holder to leave removes the directory with all files in it. True if this one did. May be called
   * twice.
   */
  close(): boolean {
    return this.#native.close();
  }
}

export interface ReserveOptions {
  readonly pool: ThreadPool;
  /** As `Mapping.create` takes it. */
  readonly numaNode?: number | null;
  readonly progress?: Float64Array | null;
}

/**
 * A file mapped as memory: a segment, an adopted safetensors file, or memory of the host device. Its methods throw
 * `NativeError`: out of range, closed, or the system's own words.
 */
export class Mapping {
  /** For the other files of this folder. */
  readonly native: NativeMapping;
  readonly path: string;
  readonly bytes: number;

  private constructor(native: NativeMapping) {
    this.native = native;
    this.path = native.path;
    this.bytes = native.bytes;
  }

  /**
   * Makes a file of `bytes` bytes, which must not exist yet, and maps it for writing. All its pages are reserved (0.25
   * seconds a GiB on this thread), so a full /dev/shm is an error here, naming wanted and free bytes, and never a
   * signal later. They come from NUMA node `numaNode`, as far as it has any and the kernel allows it; null for any.
   */
  static create(path: string, bytes: number, numaNode: number | null = null): Mapping {
    return new Mapping(callNative(() => addon.Mapping.create(path, bytes, numaNode ?? -1)));
  }

  /**
   * As `create`, with the pages reserved by all threads of a pool, off this thread: huge pages where the kernel has
   * them. `progress[0]` counts up by the bytes. On a rejection nothing is left behind.
   */
  static async reserve(path: string, bytes: number, options: ReserveOptions): Promise<Mapping> {
    const { mapping, steps } = Mapping.reserveInSteps(path, bytes, { ...options, stepBytes: bytes });
    try {
      await Promise.all(steps);
      return mapping;
    } catch (error) {
      mapping.unlink();
      mapping.close();
      throw error;
    }
  }

  /**
   * The same step by step, from the begin: the pages of a step may be used when its promise has resolved. `stepBytes` is a
   * multiple of 2 MiB, or there are no huge pages. What is left when a step is rejected is for the caller to remove.
   */
  static reserveInSteps(
    path: string,
    bytes: number,
    { pool, numaNode = null, progress = null, stepBytes }: ReserveOptions & { readonly stepBytes: number },
  ): { readonly mapping: Mapping; readonly steps: readonly Promise<unknown>[] } {
    const mapping = new Mapping(callNative(() => addon.Mapping.createEmpty(path, bytes, numaNode ?? -1)));
    const steps = Array.from({ length: Math.ceil(bytes / stepBytes) }, (_, step) => {
      const offset = step * stepBytes;
      const count = Math.min(stepBytes, bytes - offset);
      return awaitNative(pool.native.reserve(mapping.native, offset, count, progress));
    });
    // Whoever uses the memory waits for them; until then a rejection is nobody's mistake.
    for (const step of steps) step.catch(() => {});
    return { mapping, steps };
  }

  /** Maps an existing file whole. The caller sees to it that nobody truncates the file while it is mapped. */
  static open(path: string, writable: boolean): Mapping {
    return new Mapping(callNative(() => addon.Mapping.open(path, writable)));
  }

  static of(native: NativeMapping): Mapping {
    return new Mapping(native);
  }

  /** A copy of at most 64 MiB, for headers and tests; bulk goes through a {@link ThreadPool}. */
  read(offset: number, bytes: number): Buffer {
    return callNative(() => this.native.read(offset, bytes));
  }

  write(offset: number, data: Uint8Array): void {
    callNative(() => this.native.write(offset, data));
  }

  /** Unmaps. Work in flight keeps the memory until it ends. May be called twice. */
  close(): void {
    this.native.close();
  }

  /** Removes the file's name, if it still leads to this file; mappings stay valid. May be called twice. */
  unlink(): void {
    callNative(() => this.native.unlink());
  }
}

/** What a {@link ThreadPool} loads. */
export interface LoadWork {
  /** Three numbers a range, in bytes: file offset, destination offset, bytes. */
  readonly files: readonly { readonly path: string; readonly ranges: Float64Array }[];
  /** Two numbers a tensor to digest, in bytes, in ascending order: offset in the destination, bytes. The ranges bring all of it. */
  readonly tensors: Float64Array;
  /** Its first element counts up by the bytes read, while threads read them. */
  readonly progress: Float64Array;
  /** How many of the pool's threads digest and copy at once; of loads that run together, what the first one says. */
  readonly processors: number;
}

/**
 * Native threads for bulk work off the JavaScript thread. Jobs begin in the order they were given and settle as they are
 * done; two that touch the same bytes of a mapped file, where one writes, run and settle one after the other. All
 * promises reject with `NativeError`, and only after the last thread has released the memory.
 */
export class ThreadPool {
  /** For the other files of this folder. */
  readonly native: NativeThreadPool;
  readonly threads: number;

  /** 1 to 256 threads. */
  constructor(threads: number) {
    this.native = callNative(() => new addon.ThreadPool(threads));
    this.threads = this.native.threads;
  }

  /**
   * Copies rectangles between mappings. Six numbers a rectangle, in bytes: source offset, destination offset, bytes of
   * a row, rows, source pitch, destination pitch. No destination byte is also a source byte or in another rectangle.
   */
  copy(source: Mapping, destination: Mapping, rectangles: Float64Array): Promise<Interval> {
    return awaitNative(this.native.copy(source.native, destination.native, rectangles));
  }

  /** Copies a buffer into a mapping. The caller leaves `source` untouched until the promise settles. */
  copyIn(source: Uint8Array, destination: Mapping, offset: number): Promise<Interval> {
    return awaitNative(this.native.copyIn(source, destination.native, offset));
  }

  /**
   * Reads ranges of files into a mapping, past the page cache where the file system can do that, and returns the digests of
   * tensors, computed as their bytes came. As many reads are under way as the pool has threads. A file that is too short is an
   * error naming its size.
   */
  load(destination: Mapping, { files, tensors, progress, processors }: LoadWork): Promise<BigUint64Array> {
    const [paths, ranges] = [files.map(({ path }) => path), files.map((file) => file.ranges)];
    return awaitNative(this.native.load(paths, ranges, destination.native, tensors, progress, processors));
  }

  /**
   * Copies whole tensors into a mapping, each to its offset, and returns their digests: both in one pass over the
   * bytes. `progress[0]` counts up by the bytes. The caller leaves `sources` untouched, array and tensors, until the
   * promise settles.
   */
  write(
    sources: readonly Uint8Array[],
    destination: Mapping,
    offsets: Float64Array,
    progress: Float64Array | null = null,
  ): Promise<BigUint64Array> {
    return awaitNative(this.native.write(sources, destination.native, offsets, progress));
  }

  /**
   * Partial digests; the parts of a tensor sum up (mod 2^64) to its digest, defined in native/memory/digest.h. Seven
   * numbers a part, as `digestPart` makes them. `progress[0]` counts up by the bytes.
   */
  digest(
    mapping: Mapping,
    parts: Float64Array,
    progress: Float64Array | null = null,
  ): Promise<BigUint64Array> {
    return awaitNative(this.native.digest(mapping.native, parts, progress));
  }

  /** Ends the threads after the jobs already given, whose promises still settle. May be called twice. */
  close(): void {
    this.native.close();
  }
}

/** Digests of whole tensors that each lie in one run of a mapping: one word for each pair of offset and bytes. */
export function digestTensors(
  pool: ThreadPool,
  mapping: Mapping,
  offsets: Float64Array,
  bytes: Float64Array,
  progress: Float64Array | null = null,
): Promise<BigUint64Array> {
  return pool.digest(mapping, wholeTensors(offsets, bytes), progress);
}
