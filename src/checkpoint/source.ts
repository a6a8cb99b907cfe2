import { realpath } from 'node:fs/promises';
import { CheckpointError } from '../errors.ts';
import { mapBounded } from './bounded-concurrency.ts';
import { devicePlaceOf } from './device-place.ts';
import { isOnDevice } from './file-identity.ts';
import { INDEX, type ListedFile, listFiles } from './file-list.ts';
import { escapeControls, quoted } from './printable.ts';
import {
  asCheckpointError,
  type FileHeader,
  headerKey,
  type KnownHeaders,
  readHeader,
  type SafetensorsHeader,
} from './safetensors.ts';

/** Headers read at once: enough to hide the latency of a network file system, far from any limit on open files. */
const PARALLEL_READS = 16;

export interface SourceFile {
  /** Absolute, symbolic links resolved. */
  readonly path: string;
  readonly bytes: number;
  /** Lies in /dev/shm: its tensors can be used where they are. */
  readonly inSharedMemory: boolean;
  /** UUID of the device in whose memory its tensors are, in place of the file; null for none. */
  readonly device: string | null;
  /** Of checkpoint/file-identity.ts, encoded: the file whose header was read. */
  readonly identity: string;
}

/** The tensors of a checkpoint on disk, in columns, ordered by file and in a file by offset. */
export interface CheckpointIndex {
  readonly files: readonly SourceFile[];
  readonly names: readonly string[];
  /** Index into `DTYPES`. */
  readonly dtypes: Uint8Array;
  /** Dimensions of tensor i: `dimensions[shapeStarts[i] … shapeStarts[i + 1]]`. */
  readonly shapeStarts: Uint32Array;
  readonly dimensions: Float64Array;
  readonly bytes: Float64Array;
  /** Index into `files`. */
  readonly fileOf: Uint32Array;
  /** From the start of the file. */
  readonly offsets: Float64Array;
}

interface Opened {
  readonly file: SourceFile;
  readonly header: FileHeader;
}

/**
 * Opens a checkpoint: a safetensors file, a list of them, or a Hugging Face directory. file-list.ts says which files
 * of a directory count; of those every tensor counts, even if the index does not name it, as in vLLM and
 * transformers.
 *
 * Reads headers only, and parses those that are not in `last`. Rejects with a CheckpointError of one line that names file and tensor.
 */
export async function openCheckpoint(
  source: string | readonly string[],
  last: LastOpened = new LastOpened(),
): Promise<CheckpointIndex> {
  const listed = await listFiles(source);
  const opened = await mapBounded(listed, PARALLEL_READS, (file) => openFile(file, last.headers));
  checkListedOnce(listed, opened);
  const isChecked = listed.every(({ expected }) => expected.length === 0);
  const same = isChecked ? last.indexOf(opened) : null;
  if (same !== null) return { ...same, files: opened.map(({ file }) => file) };
  const names = checkNames(listed, opened);
  if (names.length === 0) throw new CheckpointError(`${sourceText(source)} has no tensors`);
  const index = toIndex(opened, names);
  last.note(opened, index);
  return index;
}

/**
 * The checkpoint that was opened last. The versions of a publisher have the same headers: they are not parsed again, and all
 * columns of their indexes but `files` are the same objects.
 */
export class LastOpened {
  headers: KnownHeaders = new Map();
  #columns: readonly SafetensorsHeader[] = [];
  #index: CheckpointIndex | null = null;

  /** Null if the files have other headers, or stand in another order. */
  indexOf(opened: readonly Opened[]): CheckpointIndex | null {
    const isSame =
      opened.length === this.#columns.length &&
      opened.every(({ header }, at) => header.columns === this.#columns[at]);
    return isSame ? this.#index : null;
  }

  note(opened: readonly Opened[], index: CheckpointIndex): void {
    this.headers = new Map(opened.map(({ header: { identity, columns } }) => [headerKey(identity), columns]));
    this.#columns = opened.map(({ header }) => header.columns);
    this.#index = index;
  }
}

function sourceText(source: string | readonly string[]): string {
  if (typeof source === 'string') return escapeControls(source);
  return source.length === 1 ? escapeControls(source[0]!) : `the list of ${source.length} files`;
}

async function openFile({ path }: ListedFile, known: KnownHeaders): Promise<Opened> {
  const header = await readHeader(path, known);
  const resolved = await realpath(path).catch((error: unknown) => {
    throw asCheckpointError(error, escapeControls(path));
  });
  return {
    header,
    file: {
      path: resolved,
      bytes: header.columns.fileBytes,
      inSharedMemory: resolved.startsWith('/dev/shm/'),
      device: isOnDevice(resolved)
        ? devicePlaceOf(header.columns.metadata, escapeControls(path)).device
        : null,
      identity: header.identity,
    },
  };
}

function checkListedOnce(listed: readonly ListedFile[], opened: readonly Opened[]): void {
  const seen = new Map<string, string>();
  for (const [index, { file }] of opened.entries()) {
    const path = escapeControls(listed[index]!.path);
    const first = seen.get(file.path);
    if (first !== undefined) {
      throw new CheckpointError(
        first === path ? `${path} is listed twice` : `${path} and ${first} are the same file`,
      );
    }
    seen.set(file.path, path);
  }
}

/** All names in order. Throws when a name is in two files, or missing where the index expects it. */
function checkNames(listed: readonly ListedFile[], opened: readonly Opened[]): string[] {
  const fileOfName = new Map<string, number>();
  for (const [file, { header }] of opened.entries()) {
    for (const name of header.columns.names) {
      const other = fileOfName.get(name);
      if (other !== undefined) {
        const places = `${escapeControls(listed[other]!.path)} and in ${escapeControls(listed[file]!.path)}`;
        throw new CheckpointError(`tensor ${quoted(name)} is in ${places}`);
      }
      fileOfName.set(name, file);
    }
  }
  for (const [file, { path, expected }] of listed.entries()) {
    const missing = expected.find((name) => fileOfName.get(name) !== file);
    if (missing === undefined) continue;
    throw new CheckpointError(
      `${escapeControls(path)} does not hold tensor ${quoted(missing)}, which ${INDEX} places in it`,
    );
  }
  return [...fileOfName.keys()];
}

function toIndex(opened: readonly Opened[], names: readonly string[]): CheckpointIndex {
  const dimensionCount = opened.reduce((sum, { header }) => sum + header.columns.dimensions.length, 0);
  const index = {
    files: opened.map(({ file }) => file),
    names,
    dtypes: new Uint8Array(names.length),
    shapeStarts: new Uint32Array(names.length + 1),
    dimensions: new Float64Array(dimensionCount),
    bytes: new Float64Array(names.length),
    fileOf: new Uint32Array(names.length),
    offsets: new Float64Array(names.length),
  };
  let row = 0;
  let dimension = 0;
  for (const [
    file,
    {
      header: { columns: header },
    },
  ] of opened.entries()) {
    index.dtypes.set(header.dtypes, row);
    index.bytes.set(header.bytes, row);
    index.offsets.set(header.offsets, row);
    index.fileOf.fill(file, row, row + header.names.length);
    index.dimensions.set(header.dimensions, dimension);
    for (let local = 0; local <= header.names.length; local += 1) {
      index.shapeStarts[row + local] = dimension + header.shapeStarts[local]!;
    }
    row += header.names.length;
    dimension += header.dimensions.length;
  }
  return index;
}
