import { closeSync, openSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { describe, NativeError, OutOfHostMemoryError } from '../errors.ts';
import { documentDigest } from './document-codec.ts';
import type { HostDocument, HostDocuments } from './host-documents.ts';

const fileMode = 0o600;
const full = new Set(['ENOSPC', 'EDQUOT', 'ENOMEM']);

/** Documents as files in the directory that the ranks of a host share, which is in memory. */
export class SharedDocuments implements HostDocuments {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  write(document: HostDocument, offset: number, piece: Uint8Array): void {
    const { path, bytes } = document;
    if (dirname(path) !== this.#directory) throw new NativeError(`${path} is not in ${this.#directory}`);
    try {
      const file = openSync(path, offset === 0 ? 'w' : 'r+', fileMode);
      try {
        writeAll(file, piece, offset);
      } finally {
        closeSync(file);
      }
    } catch (error) {
      const why = `cannot write ${path} (${bytes} bytes): ${describe(error)}`;
      if (full.has((error as NodeJS.ErrnoException).code ?? '')) throw new OutOfHostMemoryError(why);
      throw new NativeError(why);
    }
  }

  async read({ path, bytes, digest }: HostDocument): Promise<Uint8Array> {
    let content: Uint8Array;
    try {
      content = await readFile(path);
    } catch (error) {
      throw new NativeError(`cannot read ${path}: ${describe(error)}`);
    }
    if (documentDigest(content) === digest) return content;
    throw new NativeError(
      `${path} is not what was written there: ${content.byteLength} bytes instead of ${bytes}`,
    );
  }
}

function writeAll(file: number, piece: Uint8Array, offset: number): void {
  for (let done = 0; done < piece.byteLength; )
    done += writeSync(file, piece, done, piece.byteLength - done, offset + done);
}
