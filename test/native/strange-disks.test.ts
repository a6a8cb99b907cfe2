/** Files on disks that refuse direct reads, or read in other ways than most do: a load brings the right bytes or says why not. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { TestHost } from './harness.ts';
import { runPreloaded } from './preloaded.ts';

/** What becomes of the load, and how often the file is read: past the page cache, out of it, and into it. */
const disks: Record<string, { outcome?: string; reads: RegExp }> = {
  'is-usual': { reads: /direct [1-9]\d*, cached 0, waiting 0, drops 0/ },
  'tells-no-alignment': { reads: /direct [1-9]\d*, cached 0, waiting 0, drops 0/ },
  'cannot-be-direct': { reads: /direct 0, cached 0, waiting [1-9]\d*, drops [1-9]/ },
  'refuses-open': { reads: /direct 0, cached 0, waiting [1-9]\d*, drops [1-9]/ },
  'refuses-reads': { reads: /direct 0, cached 0, waiting [1-9]\d*, drops [1-9]/ },
  'reads-little': { reads: /direct \d\d+, cached 0, waiting 0, drops 0/ },
  'reads-odd-counts': { reads: /direct [1-9]\d*, cached 0, waiting \d\d+, drops 0/ },
  'is-interrupted': { reads: /direct [1-9]\d*, cached 0, waiting 0, drops 0/ },
  'is-cached': { reads: /direct 0, cached [1-9]\d*, waiting 0, drops 0/ },
  'is-cached-in-part': { reads: /direct [1-9]\d*, cached [1-9]\d*, waiting 0, drops 0/ },
  'says-that-all-is-cached': { reads: /direct [1-9]\d*, cached 0, waiting 0, drops 0, in vain 1$/ },
  'has-no-nowait': { reads: /direct [1-9]\d*, cached 0, waiting 0, drops 0/ },
  'is-broken': {
    outcome: 'cannot read /strange-is-broken at offset 10485760: Input/output error',
    reads: /direct [1-9]/,
  },
  'ends-early': {
    outcome: 'file ended early: /strange-ends-early at offset 10485760',
    reads: /direct [1-9]/,
  },
};

test('a file is loaded from any disk by reads that it can do, or the error says what and where', (t) => {
  const { namespace } = new TestHost(t);
  const directory = mkdtempSync(join(tmpdir(), 'weightcast-loads-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const program = new URL('fixtures/file-loader.js', import.meta.url);
  const names = Object.keys(disks);
  const { status, stdout, stderr } = runPreloaded(
    'strange-disk',
    program,
    directory,
    `/dev/shm/${namespace}`,
    ...names,
  );
  assert.equal(status, 0, stderr);
  const outcomes = names.map((name) => `${name}: ${disks[name]!.outcome ?? 'right'}`);
  assert.deepEqual(stdout.trim().split('\n'), outcomes);
  for (const name of names) {
    const line = stderr.split('\n').find((each) => each.startsWith(`${name}: direct`));
    assert.match(line ?? stderr, disks[name]!.reads);
  }
});
