import {
  addon,
  asWeightcastError,
  type Interval,
  type NativeMapping,
  type NativeSharedDirectory,
  type NativeThreadPool,
} from './addon.ts';

/** Runs a call into the addon; what it throws or rejects with gets its class. */
function call<T>(native: () => T): T {
  try {
    return native();
  } catch (error) {
    throw asWeightcastError(error);
  }
}

async function settled<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw asWeightcastError(error);
  }
}

/**
 * A directory in /dev/shm that lives as long as the last process that has it open, however that process ends; what a
 * killed last holder leaves is removed by {@link SharedDirectory.removeIfAbandoned}.
 */
export class SharedDirectory {
  readonly #native: NativeSharedDirectory;

  /** Makes the directory if it is missing, and joins it. */
  constructor(path: string) {
    this.#native = call(() => new addon.SharedDirectory(path));
  }

  /** Removes the directory if no live process holds it. True if it was removed. */
  static removeIfAbandoned(path: string): boolean {
    return call(() => addon.SharedDirectory.removeIfAbandoned(path));
  }

  get path(): string {
    return this.#native.path;
  }

  /** Leaves; the last holder removes the directory with all it contains. True if it was removed. */
  close(): boolean {
    return call(() => this.#native.close());
  }
}

/** A file mapped with MAP_SHARED: a segment, an adopted safetensors file, or memory of a host device. */
export class Mapping {
  /** For this folder: what the addon takes. */
  readonly native: NativeMapping;

  private constructor(native: NativeMapping) {
    this.native = native;
  }

  /** Makes a file of `bytes` bytes, reserves its pages and maps it for writing. Throws `NativeError`. */
  static create(path: string, bytes: number): Mapping {
    return new Mapping(call(() => addon.Mapping.create(path, bytes)));
  }

  /** Maps an existing file whole. Throws `NativeError`. */
  static open(path: string, writable: boolean): Mapping {
    return new Mapping(call(() => addon.Mapping.open(path, writable)));
  }

  /** For this folder: the mapping that a native object is. */
  static of(native: NativeMapping): Mapping {
    return new Mapping(native);
  }

  get path(): string {
    return this.native.path;
  }

  get bytes(): number {
    return this.native.bytes;
  }

  /** Copies out at most 64 MiB. Bulk goes through a {@link ThreadPool}. */
  read(offset: number, bytes: number): Buffer {
    return call(() => this.native.read(offset, bytes));
  }

  write(offset: number, data: Uint8Array): void {
    call(() => this.native.write(offset, data));
  }

  /** Removes the file's name; mappings stay valid. */
  unlink(): void {
    call(() => this.native.unlink());
  }

  /** Unmaps; native work in flight keeps the memory until it ends. May be called twice. */
  close(): void {
    call(() => this.native.close());
  }
}

/** Native threads for bulk work. All promises reject with `NativeError`. */
export class ThreadPool {
  readonly #native: NativeThreadPool;

  constructor(threads: number) {
    this.#native = call(() => new addon.ThreadPool(threads));
  }

  get threads(): number {
    return this.#native.threads;
  }

  /** Rectangles of six numbers: see `NativeThreadPool.copy`. */
  copy(source: Mapping, destination: Mapping, rectangles: Float64Array): Promise<Interval> {
    return settled(call(() => this.#native.copy(source.native, destination.native, rectangles)));
  }

  /** The caller leaves `source` untouched until the promise settles. */
  copyIn(source: Uint8Array, destination: Mapping, offset: number): Promise<Interval> {
    return settled(call(() => this.#native.copyIn(source, destination.native, offset)));
  }

  /** Ranges of three numbers: see `NativeThreadPool.load`. `progress[0]` counts the bytes read so far. */
  load(path: string, destination: Mapping, ranges: Float64Array, progress: Float64Array): Promise<Interval> {
    return settled(call(() => this.#native.load(path, destination.native, ranges, progress)));
  }

  /** Parts of seven numbers: see `NativeThreadPool.digest`. One word each. */
  digest(mapping: Mapping, parts: Float64Array): Promise<BigUint64Array> {
    return settled(call(() => this.#native.digest(mapping.native, parts)));
  }

  /** Ends the threads after the jobs already given. */
  close(): void {
    this.#native.close();
  }
}

/** Digests of whole tensors that lie in one mapping; offsets and sizes in bytes, a digest for each. */
export function digestTensors(
  pool: ThreadPool,
  mapping: Mapping,
  offsets: Float64Array,
  bytes: Float64Array,
): Promise<BigUint64Array> {
  const parts = new Float64Array(offsets.length * 7);
  for (const [tensor, size] of bytes.entries()) {
    parts.set([offsets[tensor]!, size, 1, size, 0, size, size], tensor * 7);
  }
  return pool.digest(mapping, parts);
}
