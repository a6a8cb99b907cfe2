import assert from 'node:assert/strict';
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { TestHost } from './harness.ts';

const fixture = fileURLToPath(new URL('fixtures/unfinished-jobs.js', import.meta.url));

async function run(t: TestContext, host: TestHost, ending: string) {
  const child: ChildProcess = fork(fixture, [host.namespace, ending], { silent: true, timeout: 60_000 });
  t.after(() => child.kill('SIGKILL'));
  const [[code, signal], output, errors] = await Promise.all([
    once(child, 'exit'),
    text(child.stdout!),
    text(child.stderr!),
  ]);
  return { code: code as number | null, signal: signal as string | null, output, errors };
}

for (const [ending, code] of [
  ['exit', 0],
  ['throw', 1],
  ['worker', 0],
] as const) {
  test(`an environment that ends by ${ending} with jobs in flight ends cleanly and leaves nothing`, async (t) => {
    const host = new TestHost(t);
    const result = await run(t, host, ending);
    assert.deepEqual([result.code, result.signal], [code, null], result.errors);
    assert.deepEqual(host.remains(), []);
  });
}

test('pending jobs keep the process alive until they settle, and idle threads do not', async (t) => {
  const host = new TestHost(t);
  const result = await run(t, host, 'end');
  assert.deepEqual([result.code, result.output], [0, 'all jobs settled\n'], result.errors);
  assert.deepEqual(host.remains(), []);
});
