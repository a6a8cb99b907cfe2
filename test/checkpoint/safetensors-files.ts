import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { encodeHeader, type TensorDescription } from '../../src/checkpoint/safetensors-writer.ts';
import { CheckpointError } from '../../src/errors.ts';
import { sharedMemoryName } from '../shared-memory-name.ts';

/** A test, or with node:test's own `after` all tests of a file: what it takes is given back when it is over. */
export interface Scope {
  after(giveBack: () => void | Promise<void>): void;
}

/** A directory that is gone after the test. */
export function temporaryDirectory(test: Scope, parent = tmpdir()): string {
  const directory = mkdtempSync(join(parent, `${sharedMemoryName()}-`));
  test.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** A file of a JSON text as it stands, or of an object, and so many bytes of data. */
export function fileBytes(header: string | object, dataBytes: number): Uint8Array {
  const json = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header));
  const file = new Uint8Array(8 + json.length + dataBytes);
  new DataView(file.buffer).setBigUint64(0, BigInt(json.length), true);
  file.set(json, 8);
  return file;
}

/** A valid file; every tensor is filled with a byte of its own. */
export function writeSafetensors(path: string, tensors: readonly TensorDescription[]): void {
  const { header, offsets, totalBytes } = encodeHeader(tensors);
  const file = new Uint8Array(totalBytes);
  file.set(header);
  for (const [index, offset] of offsets.entries()) {
    const next = Math.min(totalBytes, ...offsets.filter((other) => other > offset));
    file.fill(index + 1, offset, next);
  }
  writeFileSync(path, file);
}

export const f32 = (name: string, ...shape: number[]): TensorDescription => ({ name, dtype: 'F32', shape });

/** Asserts that an error is a CheckpointError of one line that says all of `words`. */
export function assertClear(error: unknown, ...words: (string | RegExp)[]): true {
  assert.ok(error instanceof CheckpointError, `${error} is a CheckpointError`);
  assert.doesNotMatch(error.message, /[\p{Cc}\u2028\u2029]/u, 'one line');
  for (const word of words) {
    if (typeof word === 'string') assert.ok(error.message.includes(word), `"${error.message}" names ${word}`);
    else assert.match(error.message, word);
  }
  return true;
}
