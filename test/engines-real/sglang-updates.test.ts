import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import type { InstanceOptions } from '../../src/index.ts';
import { freshAnswers, startCluster, update } from './one-engine.ts';
import { model, SglangServer, skip } from './sglang-server.ts';

const ofB = skip ? [] : await freshAnswers((scope) => SglangServer.start(scope, 'B'));

/** How to talk to it, paused unless said otherwise. */
const instanceOf = (
  { endpoint }: SglangServer,
  options: Pick<InstanceOptions, 'pause'> = { pause: 'abort' },
) => ({ endpoint, engine: 'sglang', resetCache: true, ...options }) as const;

test('SGLang, with the plug-in', { skip }, async (t) => {
  const server = await SglangServer.start(t, 'A');
  const ofA = await server.answers();
  assert.notDeepEqual(ofA, ofB);
  const cluster = await startCluster(t, instanceOf(server));

  await t.test('answers after each of several updates as one that was started with the weights', async () => {
    for (const [name, answers] of [
      ['B', ofB],
      ['A', ofA],
      ['B', ofB],
    ] as const) {
      const report = await update(cluster, model(name));
      assert.ok(allArrived(report));
      assert.ok(report.buckets > 5);
      assert.deepEqual(await server.answers(), answers);
    }
    assert.match(server.log, /is installed in the target model, 36 tensors: coverage complete/);
  });

  await t.test('says which parameters a checkpoint lacks, and takes the next', async () => {
    await assert.rejects(update(cluster, model('short')), {
      message: /ParametersMissing: .* model\.layers\.2\.mlp\.down_proj\.weight, model\.norm\.weight/,
    });
    await server.post('/continue_generation');
    assert.equal((await server.answers()).length, ofA.length);
    await update(cluster, model('A'));
    assert.deepEqual(await server.answers(), ofA);
  });

  await t.test('says what the model cannot load, and takes the next', async () => {
    await assert.rejects(update(cluster, model('misshapen')), {
      message: /AssertionError: .*loaded_weight\.shape=torch\.Size\(\[3, 5\]\)/,
    });
    await server.post('/continue_generation');
    await update(cluster, model('B'));
    assert.deepEqual(await server.answers(), ofB);
  });

  await t.test('refuses while its weights are released', async () => {
    const weights = { tags: ['weights'] };
    await fetch(`${server.endpoint}/pause_generation`, post({ mode: 'abort' }));
    await fetch(`${server.endpoint}/release_memory_occupation`, post(weights));
    await assert.rejects(update(cluster, model('A')), { message: /weights are released/ });
    await fetch(`${server.endpoint}/resume_memory_occupation`, post(weights));
    await fetch(`${server.endpoint}/continue_generation`, post({}));
    assert.deepEqual(await server.answers(), ofB);
  });
});

test('a SGLang that started with dummy weights, by our launcher, answers as a fresh one', {
  skip,
}, async (t) => {
  const server = await SglangServer.start(t, 'B', ['--load-format', 'dummy'], 'weightcast.sglang');
  assert.notDeepEqual(await server.answers(), ofB);
  await update(await startCluster(t, instanceOf(server)), model('B'));
  assert.deepEqual(await server.answers(), ofB);
  assert.match(server.log, /is installed in the target model, 36 tensors: coverage unknown/);
});

test('an Engine() in a program takes updates as a server does', { skip }, async (t) => {
  const server = await SglangServer.start(t, 'A', [], 'sglang_in_program');
  assert.notDeepEqual(await server.answers(), ofB);
  await update(await startCluster(t, instanceOf(server, {})), model('B'));
  assert.deepEqual(await server.answers(), ofB);
});

function post(body: object): RequestInit {
  return { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
}
