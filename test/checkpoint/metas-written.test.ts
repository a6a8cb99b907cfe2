import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Metas, writeMetas } from '../../src/checkpoint/metas.ts';
import { temporaryDirectory } from './safetensors-files.ts';

const secret = 'ab'.repeat(32);

function metas(manifest: Uint8Array): Metas {
  const source = { rank: 0, host: 'node-1', nics: [], address: new Uint8Array(4), segments: [] };
  return { checkpoint: 'a', digest: 'd', secret, manifest, sources: [source] };
}

test('a metas file is readable by its owner alone, whoever could read the file that it replaces', async (t) => {
  const directory = temporaryDirectory(t);
  const path = join(directory, 'metas.json');
  writeFileSync(path, 'public', { mode: 0o644 });
  await writeMetas(path, metas(new Uint8Array()));
  assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.match(readFileSync(path, 'utf8'), new RegExp(secret));
  assert.deepEqual(readdirSync(directory), ['metas.json']);
});

test('a metas file that cannot be written leaves nothing behind', async (t) => {
  const directory = temporaryDirectory(t);
  await assert.rejects(writeMetas(join(directory, 'gone', 'metas.json'), metas(new Uint8Array())), {
    code: 'ENOENT',
  });
  assert.deepEqual(readdirSync(directory), []);
});
