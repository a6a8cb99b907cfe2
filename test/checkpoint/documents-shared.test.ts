import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { SharedDocuments } from '../../src/checkpoint/shared-documents.ts';
import { NativeError } from '../../src/errors.ts';

const directory = mkdtempSync(join(tmpdir(), 'documents-'));
after(() => rmSync(directory, { recursive: true }));

const content = Uint8Array.from({ length: 1000 }, (_, at) => at);
const digest = createHash('sha256').update(content).digest('hex');
const documentAt = (name: string) => ({ path: join(directory, name), digest, bytes: content.byteLength });

test('another process of the host reads what was written in pieces', async () => {
  const document = documentAt('whole');
  const writer = new SharedDocuments(directory);
  writer.write(document, 0, content.subarray(0, 600));
  await assert.rejects(new SharedDocuments(directory).read(document), /600 bytes instead of 1000/);
  writer.write(document, 600, content.subarray(600));
  assert.deepEqual(new Uint8Array(await new SharedDocuments(directory).read(document)), content);
});

test('a document that begins again replaces what an earlier process left', async () => {
  const document = documentAt('again');
  const documents = new SharedDocuments(directory);
  documents.write(document, 0, new Uint8Array(5000));
  documents.write(document, 0, content);
  assert.deepEqual(new Uint8Array(await documents.read(document)), content);
});

test('a document that is gone, damaged or outside the directory is refused by its path', async () => {
  const documents = new SharedDocuments(directory);
  const gone = documentAt('gone');
  await assert.rejects(documents.read(gone), (error) => {
    return error instanceof NativeError && error.message.includes(gone.path);
  });
  // Removed meanwhile, between two of its pieces.
  assert.throws(() => documents.write(gone, 600, content), /cannot write .*gone/);
  const damaged = documentAt('damaged');
  documents.write(damaged, 0, content);
  truncateSync(damaged.path, 999);
  await assert.rejects(documents.read(damaged), /damaged is not what was written/);
  const outside = { ...gone, path: join(directory, '..', 'outside') };
  assert.throws(() => documents.write(outside, 0, content), NativeError);
});
