import { readdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { CheckpointError, NativeError } from '../errors.ts';
import type { Device, DeviceBuffer } from '../native-bridge/device.ts';
import { digestTensors, Mapping, type ThreadPool } from '../native-bridge/memory.ts';
import { AdoptedFile } from './adopted-file.ts';
import { digestOnDevice, notInHostMemory, openDeviceSegment, type ReadingDevice } from './device-segment.ts';
import { examineFiles } from './examined-files.ts';
import { adoptedFile, isOnDevice, reusedFile, segmentFile } from './file-identity.ts';
import { bytesOf, FileLoader, type Fillable, stepBytes } from './file-loader.ts';
import { decodeManifest, type Manifest, type SegmentInfo } from './manifest.ts';
import { selectRows } from './manifest-rows.ts';
import { escapeControls, quoted } from './printable.ts';
import { isBefore, type LoadJob, type LoadOrder, type SegmentStore } from './segment-store.ts';
import { SpareMappings } from './spare-mappings.ts';

/** What a store needs of the device that its segments are uploaded to. */
export type PinningDevice = Pick<Device, 'pin' | 'unpin' | 'numaNode'> & ReadingDevice;

interface Attached {
  readonly mapping: Mapping;
  readonly isWritable: boolean;
  /** Null for a segment that weightcast created. */
  readonly file: AdoptedFile | null;
  /** Where the tensors are, if not in the file. */
  readonly memory: DeviceBuffer | null;
}

/** The segments of one rank, in shared memory: its own, and those of other ranks of the host that it has mapped. */
export class SharedSegments implements SegmentStore {
  readonly #directory: string;
  readonly #host: string;
  readonly #pool: ThreadPool;
  readonly #loader: FileLoader;
  readonly #device: PinningDevice;
  readonly #attached = new Map<string, Attached>();
  readonly #spare = new SpareMappings((mapping) => void this.#unmap(mapping));
  /** Running loads, by the segment that they fill. */
  readonly #loading = new Map<string, Promise<unknown>>();

  /**
   * Segments in `directory` are weightcast's own to remove; all others are a user's files. `host` is its name in errors,
   * `device` what segments are uploaded to. `readers` only read files, and mostly wait.
   */
  constructor(
    { directory, host }: { readonly directory: string; readonly host: string },
    { pool, readers }: { readonly pool: ThreadPool; readonly readers: ThreadPool },
    device: PinningDevice,
  ) {
    this.#directory = directory;
    this.#host = host;
    this.#pool = pool;
    this.#loader = new FileLoader(host, readers, pool.threads);
    this.#device = device;
  }

  async ready(paths: Iterable<string>): Promise<void> {
    const sources = [...new Set(paths)].map((path) => this.source(path));
    await Promise.all(sources.map((source) => source instanceof Mapping && this.#device.pin(source)));
  }

  attach(path: string): Mapping {
    const source = this.source(path);
    if (source instanceof Mapping) return source;
    throw notInHostMemory(path);
  }

  source(path: string): Mapping | DeviceBuffer {
    const { mapping, file, memory } = this.#attached.get(path) ?? this.#open(path);
    file?.check();
    return memory ?? mapping;
  }

  readonly examine = examineFiles;

  async confirm(manifest: Manifest | null, paths: ReadonlySet<string>): Promise<boolean> {
    for (const path of paths) {
      if (adoptedFile(path) === null) continue;
      this.source(path);
      const { file } = this.#attached.get(path)!;
      const changed = file!.unconfirmed;
      if (changed === null) continue;
      if (manifest === null) return false;
      const bad = await this.check(manifest, new Set([path]));
      if (bad !== null) {
        const where = `${escapeControls(segmentFile(path))} on host ${this.#host}`;
        throw new CheckpointError(
          `${where} was changed since it was registered: tensor ${quoted(bad)} differs`,
        );
      }
      file!.confirm(changed);
    }
    return true;
  }

  async create(segments: readonly { readonly path: string; readonly bytes: number }[]): Promise<void> {
    const paths = segments.map(({ path }) => path);
    const { numaNode } = this.#device;
    try {
      for (const { path, bytes } of segments) {
        this.#add(path, await Mapping.reserve(path, bytes, { pool: this.#pool, numaNode }));
      }
      await this.ready(paths);
    } catch (error) {
      await this.forget(paths);
      throw error;
    }
  }

  async check(manifest: Manifest, paths: ReadonlySet<string>): Promise<string | null> {
    const wanted = (row: number) => paths.has(manifest.segments[manifest.segmentOf[row]!]!.path);
    const rows = Uint32Array.from([...manifest.names.keys()].filter(wanted));
    const part = selectRows(manifest, rows);
    const digests = await this.#digest(part, new Float64Array(1));
    const bad = digests.findIndex((digest, at) => digest !== part.digests[at]);
    return bad < 0 ? null : part.names[bad]!;
  }

  load(order: LoadOrder): LoadJob {
    const manifest = decodeManifest(order.manifest);
    const own = manifest.segments.find(({ path }) => path === order.segment);
    const sizes = {
      made: own === undefined || order.exists ? 0 : own.bytes,
      read: bytesOf(order.reads),
      // What is read is digested with it.
      digested: order.digest ? bytesOutside(own, manifest) : 0,
    };
    // The jobs of the pool each count for themselves, into one number.
    const progress = new Float64Array(1);
    const digests = this.#load(manifest, own, order, progress);
    if (own !== undefined) this.#noteLoading(own.path, digests);
    return {
      totalBytes: sizes.made + sizes.read + sizes.digested,
      doneBytes: () => progress[0]!,
      digests,
    };
  }

  async forget(paths: readonly string[]): Promise<void> {
    const ends = paths.flatMap((path) => {
      // Every rank of the host does so; the first one succeeds. A user may have put a file there.
      if (adoptedFile(path) === null && dirname(path) === this.#directory) rmSync(path, { force: true });
      // A load that is still running keeps its segment mapped.
      return [this.#release(path), this.#loading.get(path)];
    });
    await Promise.allSettled(ends);
  }

  leftBefore(last: Parameters<SegmentStore['leftBefore']>[0]): string[] {
    const files = readdirSync(this.#directory).map((name) => join(this.#directory, name));
    // Another rank may have removed the file of what this one has mapped.
    const known = new Set([...files, ...this.#attached.keys()]);
    return [...known].filter((path) => dirname(path) !== this.#directory || isBefore(path, last));
  }

  close(): void {
    for (const path of this.#attached.keys()) void this.#release(path);
    this.#spare.close();
    this.#loader.close();
    this.#pool.close();
  }

  /** A segment that this process may write. */
  #add(path: string, mapping: Mapping): Mapping {
    this.#attached.set(path, { mapping, isWritable: true, file: null, memory: null });
    return mapping;
  }

  #open(path: string): Attached {
    const file = adoptedFile(path) === null ? null : this.#adopt(path);
    const mapping = file?.mapping ?? Mapping.open(path, false);
    let memory: DeviceBuffer | null = null;
    try {
      if (isOnDevice(path)) memory = openDeviceSegment(path, mapping, this.#device);
    } catch (error) {
      file?.close();
      mapping.close();
      throw error;
    }
    const attached = { mapping, isWritable: false, file, memory };
    this.#attached.set(path, attached);
    return attached;
  }

  #adopt(path: string): AdoptedFile {
    const key = spareKey(path);
    const kept = key === null ? null : this.#spare.take(key);
    try {
      return AdoptedFile.open(path, this.#host, kept);
    } catch (error) {
      if (kept !== null) this.#spare.keep(key!, kept);
      throw error;
    }
  }

  async #release(path: string): Promise<void> {
    const attached = this.#attached.get(path);
    if (attached === undefined) return;
    this.#attached.delete(path);
    const { mapping, file, memory } = attached;
    file?.close();
    memory?.free();
    const key = spareKey(path);
    if (key === null) await this.#unmap(mapping);
    else this.#spare.keep(key, mapping);
  }

  async #unmap(mapping: Mapping): Promise<void> {
    const unpinned = this.#device.unpin(mapping);
    // No one else uses it from here on; pinned memory stays mapped until it is unpinned.
    mapping.close();
    await unpinned;
  }

  #noteLoading(path: string, load: Promise<unknown>): void {
    const end = () => {
      if (this.#loading.get(path) === load) this.#loading.delete(path);
    };
    this.#loading.set(path, load);
    load.then(end, end);
  }

  async #load(
    manifest: Manifest,
    own: SegmentInfo | undefined,
    order: LoadOrder,
    progress: Float64Array,
  ): Promise<BigUint64Array> {
    try {
      const fillable = own === undefined ? null : await this.#segmentToFill(own, order.exists, progress);
      // Pages must exist before they are pinned: pinned pages cannot become huge pages.
      const pages = Promise.all(fillable?.steps ?? []);
      const [filled, pinned] = await Promise.allSettled([
        this.#fill(manifest, fillable, order, progress),
        pages.then(() => this.ready(manifest.segments.map(({ path }) => path))),
      ]);
      if (filled.status === 'rejected') throw filled.reason;
      if (pinned.status === 'rejected') throw pinned.reason;
      return filled.value;
    } catch (error) {
      if (own !== undefined && !order.exists) void this.forget([own.path]);
      throw error;
    }
  }

  async #segmentToFill(own: SegmentInfo, exists: boolean, progress: Float64Array): Promise<Fillable> {
    const { path, bytes } = own;
    const { numaNode } = this.#device;
    const fillable = (segment: Mapping, steps: readonly Promise<unknown>[]) => {
      return { segment, steps, isWanted: () => this.#attached.get(path)?.mapping === segment };
    };
    if (!exists) {
      const options = { pool: this.#pool, numaNode, progress, stepBytes };
      const { mapping, steps } = Mapping.reserveInSteps(path, bytes, options);
      return fillable(this.#add(path, mapping), steps);
    }
    if (this.#attached.get(path)?.isWritable !== true) {
      // An earlier process of this rank has created it, or another rank.
      await this.#release(path);
      this.#add(path, Mapping.open(path, true));
    }
    const { mapping } = this.#attached.get(path)!;
    if (mapping.bytes !== bytes) throw new NativeError(`${path} has ${mapping.bytes} bytes, not ${bytes}`);
    return fillable(mapping, []);
  }

  async #fill(
    manifest: Manifest,
    fillable: Fillable | null,
    order: LoadOrder,
    progress: Float64Array,
  ): Promise<BigUint64Array> {
    const digests = order.digest ? new BigUint64Array(manifest.names.length) : manifest.digests;
    const own = fillable?.segment.path;
    const isOwn = (row: number) => manifest.segments[manifest.segmentOf[row]!]!.path === own;
    const rows = [...digests.keys()];
    const [read, others] = [rows.filter(isOwn), rows.filter((row) => !isOwn(row))];
    if (fillable !== null) {
      const offsets = Float64Array.from(read, (row) => manifest.offsets[row]!);
      const bytes = Float64Array.from(read, (row) => manifest.bytes[row]!);
      const found = await this.#loader.load(order, fillable, { offsets, bytes }, progress);
      if (order.digest) for (const [at, row] of read.entries()) digests[row] = found[at]!;
    }
    if (!order.digest) return digests;
    if (others.length === 0) return digests;
    const found = await this.#digestAdopted(selectRows(manifest, Uint32Array.from(others)), progress);
    for (const [at, row] of others.entries()) digests[row] = found[at]!;
    return digests;
  }

  /** Digests of the files as they are at one moment: one that changes meanwhile is an error. */
  async #digestAdopted(manifest: Manifest, progress: Float64Array): Promise<BigUint64Array> {
    const adopted = manifest.segments.flatMap(({ path }) => {
      if (adoptedFile(path) === null) return [];
      this.source(path);
      const { file } = this.#attached.get(path)!;
      return [{ path, file: file!, changed: file!.changed }];
    });
    const digests = await this.#digest(manifest, progress);
    for (const { file, changed } of adopted) file.confirm(changed);
    return digests;
  }

  async #digest(manifest: Manifest, progress: Float64Array): Promise<BigUint64Array> {
    const digests = new BigUint64Array(manifest.names.length);
    const rowsOf: number[][] = manifest.segments.map(() => []);
    for (const [row, segment] of manifest.segmentOf.entries()) rowsOf[segment]!.push(row);
    // All at once: threads that finish one continue with the next.
    await Promise.all(
      manifest.segments.map(async ({ path }, index) => {
        const rows = rowsOf[index]!;
        if (rows.length === 0) return;
        const bytes = Float64Array.from(rows, (row) => manifest.bytes[row]!);
        const offsets = Float64Array.from(rows, (row) => manifest.offsets[row]!);
        const source = this.source(path);
        const digested =
          source instanceof Mapping
            ? digestTensors(this.#pool, source, offsets, bytes, progress)
            : digestOnDevice(this.#device, source, offsets, bytes);
        const found = await digested.catch((error) => {
          // What has become of a file says more than what its reader met with.
          if (error instanceof CheckpointError) this.source(path);
          throw error;
        });
        for (const [at, row] of rows.entries()) digests[row] = found[at]!;
      }),
    );
    return digests;
  }
}

/** Of a header alone the mapping is not worth keeping. */
function spareKey(path: string): string | null {
  return isOnDevice(path) ? null : reusedFile(path);
}

function bytesOutside(own: SegmentInfo | undefined, { segments, segmentOf, bytes }: Manifest): number {
  return bytes.reduce((sum, each, row) => (segments[segmentOf[row]!] === own ? sum : sum + each), 0);
}
