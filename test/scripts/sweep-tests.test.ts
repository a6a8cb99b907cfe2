import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
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
