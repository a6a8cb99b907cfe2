import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { root } from './fake-library.ts';

test('a throw that reaches an event loop is reported, and the loop and the process go on', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'weightcast-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const program = join(folder, 'event-loop');
  const sources = ['event_loop', 'threads', 'base'].map((name) => join(root, `native/system/${name}.cc`));
  const fixture = join(root, 'test/native/fixtures/event-loop.cc');
  const sanitizers = process.env.WEIGHTCAST_TEST_SANITIZERS;
  const options = sanitizers === undefined ? [] : [`-fsanitize=${sanitizers}`];
  const build = spawnSync(
    process.env.CXX ?? 'c++',
    [
      ...['-std=c++17', '-O1', '-g1', '-pthread', ...options, '-I', join(root, 'native')],
      ...['-o', program, fixture, ...sources],
    ],
    { encoding: 'utf8', env: withoutPreload() },
  );
  assert.equal(build.status, 0, build.stderr);
  const { status, stdout, stderr } = spawnSync(program, [], { encoding: 'utf8', env: withoutPreload() });
  assert.equal(status, 0, stderr);
  assert.deepEqual(stdout.split('\n'), [
    'EINVAL: a task',
    'EIO: a timer',
    'EPROTO: a handler',
    'the handler was called 1 time(s)',
    "EPIPE: a task after the loop's end",
    'sound',
    '',
  ]);
});

/** Node is started with a sanitizer's runtime preloaded, which neither the compiler nor this program needs. */
function withoutPreload(): NodeJS.ProcessEnv {
  const { LD_PRELOAD: _, ...rest } = process.env;
  return rest;
}
