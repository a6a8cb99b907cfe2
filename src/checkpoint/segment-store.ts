import type { DeviceBuffer } from '../native-bridge/device.ts';
import type { Mapping } from '../native-bridge/memory.ts';
import type { Manifest } from './manifest.ts';

/** What to load; `ranges` are three numbers each, as the addon's `load` takes them. */
export interface LoadOrder {
  readonly manifest: Uint8Array;
  /** Path of the segment to fill; null when all tensors lie in shared memory already. */
  readonly segment: string | null;
  /** The segment exists and has the right size; otherwise it is created. */
  readonly exists: boolean;
  /** `identity`: of the file, which must be the same before and after it is read. */
  readonly reads: readonly {
    readonly path: string;
    readonly identity: string;
    readonly ranges: Float64Array;
  }[];
  /** False where the manifest has the digests. */
  readonly digest: boolean;
}

/** Whether a segment has a number up to the last one of its kind: of a set (`checkpoint-7-0`), or an epoch (`mirror-3-1`, `document-3-…`). */
export function isBefore(path: string, last: { readonly set: number; readonly epoch: number }): boolean {
  const [, kind, number] = /\/(checkpoint|mirror|document)-(\d+)-[^/]*$/.exec(path) ?? [];
  if (kind === undefined) return false;
  return Number(number) <= (kind === 'checkpoint' ? last.set : last.epoch);
}

/** A file as this host sees it. */
export interface ExaminedFile {
  /** Encoded; null if the file cannot be read here. */
  readonly identity: string | null;
  /** Why it cannot be read. */
  readonly problem: string | null;
}

/**
 * The named shared memory that a rank can reach. A segment is named by its path, an adopted file by its path and identity
 * (file-identity.ts). Whatever reads an adopted file throws a `CheckpointError` that names file and host if it is not as it
 * was when it was registered.
 */
export interface SegmentStore {
  /** Maps segments of this host and pins them for uploads, each once. Rejects with `NativeError`. */
  ready(paths: Iterable<string>): Promise<void>;
  /** A segment of this host. Throws a `CheckpointError` for one in the memory of a device. */
  attach(path: string): Mapping;
  /** What to upload from: a segment of this host, slowly if it is not pinned, or memory of this rank's device. */
  source(path: string): Mapping | DeviceBuffer;
  /** Looks at safetensors files. `known`: an identity that saves reading the header if the file still has it. */
  examine(files: readonly { readonly path: string; readonly known: string }[]): Promise<ExaminedFile[]>;
  /**
   * Makes sure that these segments, as far as they are adopted files, still hold what the manifest says. Resolves with false
   * if one of them has to be compared and there is no manifest whose digests are those of the checkpoint.
   */
  confirm(manifest: Manifest | null, paths: ReadonlySet<string>): Promise<boolean>;
  /** Creates empty segments. Rejects with `NativeError` or `OutOfHostMemoryError`; then it leaves none behind. */
  create(segments: readonly { readonly path: string; readonly bytes: number }[]): Promise<void>;
  /** The first tensor in these segments whose bytes do not match its digest; null if all match. */
  check(manifest: Manifest, paths: ReadonlySet<string>): Promise<string | null>;
  /** Fills this rank's segment from files, computes the digests of its tensors and pins it for uploads. */
  load(order: LoadOrder): LoadJob;
  /**
   * Unmaps segments, and removes those that weightcast created; a user's files stay. Resolves when this process has
   * released their memory.
   */
  forget(paths: readonly string[]): Promise<void>;
  /** Paths of segments that weightcast has created, of sets up to that number and epochs up to that one, and of adopted files. */
  leftBefore(last: { readonly set: number; readonly epoch: number }): string[];
  close(): void;
}

export interface LoadJob {
  /** Bytes created, read and digested; 0 where there are none. */
  readonly totalBytes: number;
  doneBytes(): number;
  /**
   * One digest a tensor, in the manifest's order. Rejects with `NativeError`, `CheckpointError` for a file that changed,
   * or `OutOfHostMemoryError` if the segment could not be created; then it leaves no new segment behind, and the content of a reused one is undefined.
   */
  readonly digests: Promise<BigUint64Array>;
}
