import assert from 'node:assert/strict';
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { TestCluster } from './fabrics.ts';

const fixture = fileURLToPath(new URL('fixtures/unfinished-reads.js', import.meta.url));

async function run(t: TestContext, ending: string) {
  const cluster = new TestCluster(t);
  const source = await cluster.source();
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
  const child: ChildProcess = fork(
    fixture,
    [cluster.host.namespace, hex(cluster.secret), hex(source.address), hex(source.token), ending],
    { silent: true, timeout: 60_000 },
  );
  t.after(() => child.kill('SIGKILL'));
  const [[code, signal], output, errors] = await Promise.all([
    once(child, 'exit'),
    text(child.stdout!),
    text(child.stderr!),
  ]);
  const remains = cluster.host.remains().filter((name) => name.endsWith('-reader'));
  return { code: code as number | null, signal: signal as string | null, output, errors, remains };
}

for (const [ending, code] of [
  ['exit', 0],
  ['throw', 1],
  ['worker', 0],
] as const) {
  test(`an environment that ends by ${ending} with reads in flight ends cleanly and leaves nothing`, async (t) => {
    const result = await run(t, ending);
    assert.deepEqual([result.code, result.signal], [code, null], result.errors);
    assert.deepEqual(result.remains, []);
  });
}

test('pending reads keep the process alive until they settle, and an open fabric does not', async (t) => {
  const result = await run(t, 'end');
  assert.deepEqual([result.code, result.output], [0, 'all reads settled\n'], result.errors);
});
