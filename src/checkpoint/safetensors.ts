import { createHash } from 'node:crypto';
import { type BigIntStats, constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { CheckpointError } from '../errors.ts';
import { bytesOf, DTYPES, dtypeIndex, shapeText } from './dtype.ts';
import {
  decodeIdentity,
  encodeIdentity,
  identityOf,
  isOnDevice,
  isStampedByWriter,
} from './file-identity.ts';
import { escapeControls, quoted } from './printable.ts';
import { isObject, parseJsonObject } from './strict-json.ts';

/** The format allows a header of at most so many bytes, the eight of its length not counted. */
const LARGEST_HEADER = 100_000_000;
/** Eight bytes in front of the header say how long it is. */
const LENGTH_BYTES = 8;
/** Two writes within one tick of a file system's clock leave the same time stamp; ticks are at most this long. */
const TICK_MILLISECONDS = 20;

/** The tensors of one safetensors file, in columns, in the order in which their data lies in the file. */
export interface SafetensorsHeader {
  readonly names: readonly string[];
  /** Index into `DTYPES`. */
  readonly dtypes: Uint8Array;
  /** Dimensions of tensor i: `dimensions[shapeStarts[i] … shapeStarts[i + 1]]`. */
  readonly shapeStarts: Uint32Array;
  readonly dimensions: Float64Array;
  readonly bytes: Float64Array;
  /** From the start of the file. */
  readonly offsets: Float64Array;
  readonly metadata: ReadonlyMap<string, string>;
  readonly fileBytes: number;
}

/** Headers that were read before, by `headerKey`. */
export type KnownHeaders = ReadonlyMap<string, SafetensorsHeader>;

/** A header as it was read from a file. */
export interface FileHeader {
  /** Of the file, encoded. */
  readonly identity: string;
  readonly columns: SafetensorsHeader;
}

interface Entry {
  readonly name: string;
  readonly dtype: number;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

/**
 * Reads the header of a safetensors file, and none of its data. Every way in which the file breaks the format, cannot be
 * read, or changes while it is read rejects with a CheckpointError of one line that names the file, and the tensor where
 * one is at fault. `known`: what need not be parsed again.
 */
export async function readHeader(path: string, known: KnownHeaders = new Map()): Promise<FileHeader> {
  const file = escapeControls(path);
  return await withHeader(path, (header, stats) => {
    const identity = encodeIdentity(identityOf(stats, headerDigest(header)));
    const bytes = isOnDevice(path) ? null : Number(stats.size);
    const columns = known.get(headerKey(identity)) ?? parseHeader(header, file, bytes);
    return { identity, columns };
  });
}

/** What a header says follows from this part of its file's identity. */
export function headerKey(identity: string): string {
  const { bytes, header } = decodeIdentity(identity);
  return `${bytes}:${header}`;
}

/** The identity of a safetensors file, encoded. Rejects as {@link readHeader} does; tensors are not looked at. */
export function readIdentity(path: string): Promise<string> {
  return withHeader(path, (header, stats) => encodeIdentity(identityOf(stats, headerDigest(header))));
}

function headerDigest(header: Uint8Array): string {
  return createHash('sha256').update(header).digest('hex');
}

async function withHeader<T>(path: string, use: (header: Uint8Array, stats: BigIntStats) => T): Promise<T> {
  const file = escapeControls(path);
  let handle: FileHandle | undefined;
  try {
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const stats = isStampedByWriter(path) ? await handle.stat({ bigint: true }) : await settledStats(handle);
    if (stats.isDirectory()) throw new CheckpointError(`${file} is a directory, not a safetensors file`);
    if (!stats.isFile()) throw new CheckpointError(`${file} is not a regular file`);
    const size = Number(stats.size);
    const length = await readExactly(handle, 0, Math.min(LENGTH_BYTES, size), file);
    const header = await readExactly(handle, LENGTH_BYTES, headerLength(length, file, size), file);
    const { size: endSize, mtimeNs, ctimeNs } = await handle.stat({ bigint: true });
    if (endSize !== stats.size || mtimeNs !== stats.mtimeNs || ctimeNs !== stats.ctimeNs) {
      throw new CheckpointError(`${file} was changed while it was read`);
    }
    return use(header, stats);
  } catch (error) {
    throw asCheckpointError(error, file);
  } finally {
    await handle?.close();
  }
}

/** Of a file that was written a moment ago once another write would leave another time stamp. */
async function settledStats(handle: FileHandle): Promise<BigIntStats> {
  const stats = await handle.stat({ bigint: true });
  const age = Date.now() - Number(stats.ctimeMs);
  if (!stats.isFile() || age < 0 || age > TICK_MILLISECONDS) return stats;
  await sleep(TICK_MILLISECONDS);
  return await handle.stat({ bigint: true });
}

/** Words for the system errors that opening and reading meet; `file` begins the message. */
export function asCheckpointError(error: unknown, file: string): unknown {
  if (error instanceof CheckpointError || !(error instanceof Error) || !('code' in error)) return error;
  const options = { cause: error };
  if (error.code === 'ENOENT') return new CheckpointError(`${file} does not exist`, options);
  if (error.code === 'EACCES' || error.code === 'EPERM') {
    return new CheckpointError(`${file} may not be read: permission denied`, options);
  }
  if (error.code === 'ENOTDIR') {
    return new CheckpointError(`${file} does not exist: a part of the path is not a directory`, options);
  }
  return new CheckpointError(`${file} cannot be read: ${escapeControls(error.message)}`, options);
}

async function readExactly(
  handle: FileHandle,
  position: number,
  bytes: number,
  file: string,
): Promise<Uint8Array> {
  const buffer = new Uint8Array(bytes);
  let done = 0;
  while (done < bytes) {
    const { bytesRead } = await handle.read(buffer, done, bytes - done, position + done);
    if (bytesRead === 0) throw new CheckpointError(`${file} was cut short while it was read`);
    done += bytesRead;
  }
  return buffer;
}

/**
 * Length of the JSON header, from the first bytes of a file of `fileBytes` bytes.
 * Throws a CheckpointError when the file cannot hold it.
 */
export function headerLength(start: Uint8Array, file: string, fileBytes: number): number {
  if (fileBytes === 0) throw new CheckpointError(`${file} is empty`);
  if (fileBytes < LENGTH_BYTES || start.length < LENGTH_BYTES) {
    throw new CheckpointError(`${file} is truncated: ${fileBytes} bytes cannot hold a safetensors header`);
  }
  const length = Number(new DataView(start.buffer, start.byteOffset, LENGTH_BYTES).getBigUint64(0, true));
  if (length > LARGEST_HEADER) {
    throw new CheckpointError(
      `${file} is not a safetensors file: a header of ${length} bytes is over the limit of ${LARGEST_HEADER}`,
    );
  }
  if (LENGTH_BYTES + length > fileBytes) {
    throw new CheckpointError(
      `${file} is truncated: its header has ${length} bytes, but only ${fileBytes - LENGTH_BYTES} follow its length`,
    );
  }
  return length;
}

/**
 * Parses and validates the JSON header of a file of `fileBytes` bytes; null: it has no more than its header, and counts as if its
 * tensors followed. It accepts what the reference reader accepts,
 * so also white space around the JSON and unknown fields of a tensor, and whole numbers spelled `1e3`. Throws a
 * CheckpointError of one line; `file` begins it.
 */
export function parseHeader(header: Uint8Array, file: string, fileBytes: number | null): SafetensorsHeader {
  const object = parseJsonObject(header, `${file}: the header`);
  const entries: Entry[] = [];
  let metadata: ReadonlyMap<string, string> = new Map();
  for (const [name, value] of object) {
    if (name === '__metadata__') metadata = parseMetadata(value, file);
    else entries.push(parseEntry(name, value, file));
  }
  // Tensors without bytes share their offset with the next one and come first.
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end || (a.name < b.name ? -1 : 1));
  const dataStart = LENGTH_BYTES + header.length;
  const bytes = fileBytes ?? dataStart + (entries.at(-1)?.end ?? 0);
  checkCoverage(entries, file, bytes - dataStart);
  return { ...toColumns(entries, dataStart), metadata, fileBytes: bytes };
}

function parseMetadata(value: unknown, file: string): ReadonlyMap<string, string> {
  if (!isObject(value)) throw new CheckpointError(`${file}: __metadata__ is not an object of strings`);
  const metadata = new Map<string, string>();
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') {
      throw new CheckpointError(`${file}: __metadata__ must map to strings, but ${quoted(key)} does not`);
    }
    metadata.set(key, text);
  }
  return metadata;
}

function parseEntry(name: string, value: unknown, file: string): Entry {
  const reject = (reason: string): never => {
    throw new CheckpointError(`${file}: tensor ${quoted(name)} ${reason}`);
  };
  if (/\p{Surrogate}/u.test(name)) reject('has a name that is not Unicode');
  if (!isObject(value)) return reject('is not described by an object');
  const { dtype: dtypeName, shape, data_offsets: span } = value;
  if (typeof dtypeName !== 'string') return reject('has no dtype');
  const dtype = dtypeIndex(dtypeName);
  if (dtype < 0) reject(`has the unknown dtype ${quoted(dtypeName)}`);
  if (!isWholeNumbers(shape)) return reject('has a shape that is not a list of whole numbers from 0 to 2^53');
  if (!isWholeNumbers(span) || span.length !== 2) {
    return reject('has data_offsets that are not two whole numbers from 0 to 2^53');
  }
  const [begin, end] = span as [number, number];
  if (begin > end) reject(`has data_offsets that end before they begin: [${begin}, ${end}]`);
  let bytes = 0;
  try {
    bytes = bytesOf(DTYPES[dtype]!, shape);
  } catch (error) {
    reject(`cannot be: ${(error as Error).message}`);
  }
  if (bytes !== end - begin) {
    reject(
      `takes ${bytes} bytes as ${dtypeName} ${shapeText(shape)}, but data_offsets give it ${end - begin}`,
    );
  }
  return { name, dtype, shape, begin, end };
}

function isWholeNumbers(value: unknown): value is readonly number[] {
  return (
    Array.isArray(value) &&
    value.every((item) => Number.isSafeInteger(item) && item >= 0 && !Object.is(item, -0))
  );
}

/** The data of all tensors must fill the file from the header to its end, without holes or overlaps. */
function checkCoverage(entries: readonly Entry[], file: string, dataBytes: number): void {
  let covered = 0;
  for (const [index, { name, begin, end }] of entries.entries()) {
    if (end > dataBytes) {
      const missing = `ends at byte ${end} of the data, but the file holds ${dataBytes}`;
      throw new CheckpointError(
        `${file}: tensor ${quoted(name)} ${missing}: the file is truncated or the offsets wrong`,
      );
    }
    if (begin < covered) {
      const other = quoted(entries[index - 1]!.name);
      throw new CheckpointError(
        `${file}: tensors ${other} and ${quoted(name)} overlap at byte ${begin} of the data`,
      );
    }
    if (begin > covered) {
      const hole = `${begin - covered} bytes of the data before it belong to no tensor`;
      throw new CheckpointError(`${file}: tensor ${quoted(name)} follows a hole: ${hole}`);
    }
    covered = end;
  }
  if (covered < dataBytes) {
    throw new CheckpointError(
      `${file}: ${dataBytes - covered} bytes at the end of the file belong to no tensor`,
    );
  }
}

function toColumns(
  entries: readonly Entry[],
  dataStart: number,
): Omit<SafetensorsHeader, 'metadata' | 'fileBytes'> {
  const shapeStarts = new Uint32Array(entries.length + 1);
  for (const [index, { shape }] of entries.entries())
    shapeStarts[index + 1] = shapeStarts[index]! + shape.length;
  const dimensions = new Float64Array(shapeStarts.at(-1)!);
  for (const [index, { shape }] of entries.entries()) dimensions.set(shape, shapeStarts[index]!);
  return {
    names: entries.map((entry) => entry.name),
    dtypes: Uint8Array.from(entries, (entry) => entry.dtype),
    shapeStarts,
    dimensions,
    bytes: Float64Array.from(entries, (entry) => entry.end - entry.begin),
    offsets: Float64Array.from(entries, (entry) => dataStart + entry.begin),
  };
}
