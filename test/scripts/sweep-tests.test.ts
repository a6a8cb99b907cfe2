import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { whyNoNamespaces } from '../../scenarios/host-network.ts';
import { packageRoot } from '../../src/package-root.ts';

test('what tests of a runner that ended left in shared memory is removed, and nothing else', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'weightcast-sweep-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const ended = spawnSync(process.execPath, ['-e', '']).pid;
  for (const name of [`test-${ended}-0a`, `weightcast-test-${ended}-0b-0`, `fake-nccl-${ended}-1`])
    writeFileSync(join(directory, name), 'x');
  mkdirSync(join(directory, `test-${ended}-0c`));
  const kept = ['psm_1', `test-${process.pid}-0a`, `weightcast-${ended}`];
  for (const name of kept) writeFileSync(join(directory, name), 'x');
  const { sweepTests } = await import(new URL('scripts/sweep-tests.mjs', packageRoot).href);
  sweepTests(directory);
  assert.deepEqual(readdirSync(directory).sort(), kept.sort());
});

test('network namespaces of a process that ended are removed, and no others', {
  skip: whyNoNamespaces() ?? false,
}, async (t) => {
  const ended = spawnSync(process.execPath, ['-e', '']).pid;
  const ip = (...words: string[]) => spawnSync('ip', ['netns', ...words], { encoding: 'utf8' });
  const [left, kept] = [`wc-${ended}-1-0`, `wc-${process.pid}-x-0`];
  t.after(() => ip('delete', kept));
  for (const name of [left, kept]) assert.equal(ip('add', name).status, 0);
  const { sweepTests } = await import(new URL('scripts/sweep-tests.mjs', packageRoot).href);
  const empty = mkdtempSync(join(tmpdir(), 'weightcast-sweep-'));
  t.after(() => rmSync(empty, { recursive: true }));
  sweepTests(empty);
  const names = ip('list').stdout;
  assert.ok(!names.includes(left) && names.includes(kept), names);
});
