import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { decodeManifest, encodeManifest } from '../../src/checkpoint/manifest.ts';
import { asForeign, type Metas, writeMetas } from '../../src/checkpoint/metas.ts';
import { manifestOf, segmentOf } from '../plan/manifests.ts';
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

test('names of hosts of another cluster, which go into logs, have nothing of its secret', () => {
  const manifest = encodeManifest(
    manifestOf([{ name: 't', bytes: 8, segment: 0, offset: 0 }], [segmentOf(0, 'node-1')]),
  );
  const foreign = asForeign(metas(manifest));
  const hosts = [
    ...foreign.sources.map(({ host }) => host),
    ...decodeManifest(foreign.manifest).segments.map(({ host }) => host),
  ];
  assert.deepEqual([hosts.length, new Set(hosts).size], [2, 1]);
  assert.match(hosts[0]!, /^node-1@/);
  for (const host of hosts) assert.doesNotMatch(host, /abab/);
});

test('a metas file that cannot be written leaves nothing behind', async (t) => {
  const directory = temporaryDirectory(t);
  await assert.rejects(writeMetas(join(directory, 'gone', 'metas.json'), metas(new Uint8Array())), {
    code: 'ENOENT',
  });
  assert.deepEqual(readdirSync(directory), []);
});
