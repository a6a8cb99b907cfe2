import { closeSync, constants, fstatSync, openSync, statSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { AbortedError, CheckpointError } from '../errors.ts';
import { Mapping } from '../native-bridge/memory.ts';
import {
  adoptedFile,
  type FileIdentity,
  identityOf,
  isOnDevice,
  isUntouched,
  isUnwritten,
} from './file-identity.ts';
import { escapeControls } from './printable.ts';
import { asCheckpointError } from './safetensors.ts';

/**
 * A user's file in shared memory, mapped while it was still the file that was registered. The mapping is that of the file,
 * not of its path: it stays as it was when another file replaces this one under its path.
 */
export class AdoptedFile {
  readonly mapping: Mapping;
  readonly #name: string;
  readonly #registered: FileIdentity;
  /** Time stamps of the mapped file can be read after it has lost its path. */
  readonly #descriptor: number;
  #isClosed = false;
  /** The content is elsewhere, in memory of whoever has removed the file. */
  readonly #goesWithPath: boolean;
  /** The time of the last change after which the content was compared with its digests. */
  #confirmed: string;

  private constructor(
    name: string,
    registered: FileIdentity,
    descriptor: number,
    mapping: Mapping,
    goesWithPath: boolean,
  ) {
    this.mapping = mapping;
    this.#goesWithPath = goesWithPath;
    this.#name = name;
    this.#registered = registered;
    this.#descriptor = descriptor;
    this.#confirmed = registered.changed;
  }

  /**
   * `segment` is the name of an adopted segment. Throws a `CheckpointError` that names file and host if its path leads to
   * another file now, or if the file was written since it was registered. `kept`: a mapping of that very file.
   */
  static open(segment: string, host: string, kept: Mapping | null = null): AdoptedFile {
    const { path, identity } = adoptedFile(segment)!;
    const name = nameOf(path, host);
    let descriptor: number | null = null;
    let mapping: Mapping | null = null;
    try {
      // Without O_NONBLOCK, opening a FIFO would wait for a writer.
      descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      const before = statsOf(descriptor);
      checkUnwritten(name, before, identity);
      mapping = kept ?? Mapping.open(path, false);
      // Only if the path led to this file all the while is it the one that was mapped.
      if (!isUntouched(identityOf(statSync(path, { bigint: true }), ''), before)) throw replaced(name);
      return new AdoptedFile(name, identity, descriptor, mapping, isOnDevice(segment));
    } catch (error) {
      if (kept === null) mapping?.close();
      if (descriptor !== null) closeSync(descriptor);
      throw asCheckpointError(error, name);
    }
  }

  /**
   * Throws a `CheckpointError` if the file was truncated or written since it was registered; also if it was removed, where its
   * tensors go with it.
   */
  check(): void {
    checkUnwritten(this.#name, this.#stats(), this.#registered);
    if (this.#goesWithPath && fstatSync(this.#descriptor).nlink === 0)
      throw new CheckpointError(
        `${this.#name} is gone, with the trainer that had its tensors in the memory of a device`,
      );
  }

  /** The time of the last change of content, names, owner or mode. */
  get changed(): string {
    return this.#stats().changed;
  }

  /**
   * The time of the last change if the content has to be compared with its digests again: the time of modification can be
   * set back after a write, that of a change cannot. Null if nothing has changed.
   */
  get unconfirmed(): string | null {
    const { changed } = this;
    return changed === this.#confirmed ? null : changed;
  }

  /** The content was found to match its digests by work that began at the change `changed`. Throws as {@link check}. */
  confirm(changed: string): void {
    this.check();
    if (this.changed !== changed) throw written(this.#name);
    this.#confirmed = changed;
  }

  /** May be called twice. */
  close(): void {
    if (!this.#isClosed) closeSync(this.#descriptor);
    this.#isClosed = true;
  }

  #stats(): FileIdentity {
    if (this.#isClosed) throw new AbortedError(`${this.#name} was released`);
    return statsOf(this.#descriptor);
  }
}

/** Rejects with a `CheckpointError` that names file and host if anything about the file is not as it was. */
export async function checkUntouched(path: string, identity: FileIdentity, host: string): Promise<void> {
  const name = nameOf(path, host);
  const now = await stat(path, { bigint: true }).catch((error: unknown) => {
    throw asCheckpointError(error, name);
  });
  const found = identityOf(now, '');
  checkUnwritten(name, found, identity);
  if (!isUntouched(found, identity)) throw written(name);
}

function nameOf(path: string, host: string): string {
  return `${escapeControls(path)} on host ${host}`;
}

function statsOf(descriptor: number): FileIdentity {
  return identityOf(fstatSync(descriptor, { bigint: true }), '');
}

function checkUnwritten(name: string, found: FileIdentity, registered: FileIdentity): void {
  if (isUnwritten(found, registered)) return;
  if (found.device !== registered.device || found.inode !== registered.inode) throw replaced(name);
  if (found.bytes !== registered.bytes) {
    throw new CheckpointError(
      `${name} has ${found.bytes} bytes now and had ${registered.bytes} when it was registered; register it again`,
    );
  }
  throw written(name);
}

function replaced(name: string): CheckpointError {
  return new CheckpointError(
    `${name} was replaced by another file since it was registered; register it again`,
  );
}

function written(name: string): CheckpointError {
  return new CheckpointError(`${name} was changed since it was registered; register it again`);
}
