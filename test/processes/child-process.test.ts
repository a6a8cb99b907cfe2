/** What becomes of processes that cannot be started. */
import assert from 'node:assert/strict';
import { closeSync, openSync } from 'node:fs';
import { test } from 'node:test';
import { startProcess } from '../../src/processes/child-process.ts';

test('a process that nothing is left to start with has ended, and harms nobody', async () => {
  const held: number[] = [];
  const start = () => startProcess('./no-entry', import.meta.url, {}, undefined, ['/nowhere/launcher']);
  let process: ReturnType<typeof start>;
  try {
    try {
      for (;;) held.push(openSync('/dev/null', 'r'));
    } catch {
      // No more descriptors.
    }
    process = start();
  } finally {
    for (const descriptor of held) closeSync(descriptor);
  }
  assert.match(await process.exited, /EMFILE/);
  assert.deepEqual(await process.stop(1_000), { wasKilled: false });
  assert.match(await start().exited, /ENOENT/);
});
