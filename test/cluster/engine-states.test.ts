import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { writeBaseline } from '../../src/engines/baseline-file.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { patience } from '../patience.ts';
import { startCluster, startEngine, statesOf } from './fake-instance.ts';
import { startBench } from './harness.ts';

test('an engine that is asleep is refused by name and not touched', async (t) => {
  const { asked, said, endpoint } = await startEngine(t, () => 'none', { is_sleeping: true });
  const cluster = await startCluster(t, [{ name: 'blue', endpoint, ranks: [0], pause: 'abort' }]);
  await assert.rejects(cluster.update('a'), {
    name: 'EngineError',
    message: `instance blue (${endpoint}) is asleep: wake it up before an update (POST /wake_up), or use pause "caller"`,
  });
  assert.deepEqual(asked, []);
  said.is_sleeping = false;
  await cluster.update('a');
  assert.deepEqual(await statesOf(cluster), [['blue', 'serving', 'a', false]]);
});

test('an engine that someone else has paused is refused by name and stays as it is', async (t) => {
  const { asked, said, endpoint } = await startEngine(t, () => 'none', { is_paused: true });
  const cluster = await startCluster(t, [{ name: 'blue', endpoint, ranks: [0], pause: 'abort' }]);
  await assert.rejects(cluster.update('a'), {
    name: 'EngineError',
    message: `instance blue (${endpoint}) was paused by someone else: resume it (weightcast resume --endpoint ${endpoint}), or use pause "caller"; if an update that failed has left it so, it may hold parts of two versions: update it with pause "caller" first`,
  });
  // As a vLLM says it that is paused, or asleep.
  said.is_sleeping = true;
  await assert.rejects(
    cluster.update('a'),
    /is asleep, or was paused by someone else: wake it up .* or resume it/,
  );
  assert.deepEqual(asked, []);
  assert.equal(said.is_paused, true);
  assert.deepEqual(await statesOf(cluster), [['blue', 'unknown', null, false]]);
});

test('an engine with more or fewer workers than ranks is refused by both numbers before it is paused', async (t) => {
  const { asked, said, endpoint } = await startEngine(t, () => 'none', { world_size: 2 });
  const cluster = await startCluster(t, [{ name: 'blue', endpoint, ranks: [0], pause: 'abort' }]);
  await assert.rejects(cluster.update('a'), {
    name: 'EngineError',
    message: `instance blue (${endpoint}) has 1 rank, and its engine has 2 workers: give it one rank for each worker`,
  });
  assert.deepEqual(asked, []);
  // It was started again.
  said.world_size = 1;
  await cluster.update('a');
  assert.deepEqual(await statesOf(cluster), [['blue', 'serving', 'a', false]]);
});

test('a baseline is refused before the pause where workers do not say what they hold, and fails the update of those that then do not', async (t) => {
  const { asked, endpoint } = await startEngine(t, () => 'none', { is_paused: false });
  const baseline = join(temporaryDirectory(t), 'baseline.json');
  const held = { place: { which: 'target' }, layout: 'aa', names: ['w'], digests: new BigUint64Array(1) };
  writeBaseline(baseline, [{ ...held, differing: [] }]);
  const verify = { baseline };
  const options = { name: 'blue', endpoint, ranks: [0], pause: 'abort' } as const;
  const silent = await startCluster(t, [{ ...options, link: 'checkpoint-engine' }]);
  await assert.rejects(silent.update('a', { verify }), {
    name: 'EngineError',
    message: /^the workers of instance blue \S+ do not say what their models hold, .* with the baseline/,
  });
  assert.deepEqual(asked, []);
  const cluster = await startCluster(t, [options]);
  await assert.rejects(cluster.update('a', { verify }), {
    name: 'VerificationError',
    message: /^instance blue: not all of its workers say what they hold/,
  });
  assert.deepEqual(await statesOf(cluster), [['blue', 'broken', null, true]]);
});

test('a caller that pauses and resumes has to have paused, and nothing is undone', async (t) => {
  const { asked, said, endpoint } = await startEngine(t, () => 'none', { is_paused: false });
  const cluster = await startCluster(t, [{ name: 'blue', endpoint, ranks: [0], pause: 'caller' }]);
  await assert.rejects(cluster.update('a'), {
    name: 'EngineError',
    message: `instance blue (${endpoint}) is not paused, and with pause "caller" it must be before an update`,
  });
  assert.deepEqual(asked, []);
  said.is_paused = true;
  await cluster.update('a');
  const changed = (asked as readonly string[]).filter((route) => !route.startsWith('/reset_'));
  assert.deepEqual(changed, ['/collective_rpc', 'load', '/update_weight_version']);
  assert.equal(said.is_paused, true);
  assert.deepEqual(await statesOf(cluster), [['blue', 'serving', 'a', false]]);
});

test('a draft model that the workers would not take apart is refused before the engine is paused', async (t) => {
  const { asked, endpoint } = await startEngine(t, () => 'none', { is_paused: false });
  const instance = { name: 'blue', endpoint, ranks: [0], pause: 'abort', hasDraftModel: true } as const;
  const cluster = await startCluster(t, [instance]);
  await assert.rejects(cluster.update('a'), {
    name: 'EngineError',
    message:
      /^engine http:\S+: its workers do not say that a draft .* apart from the target: leave hasDraftModel/,
  });
  assert.ok(!asked.some((route) => route.startsWith('/pause') || route === 'load'), asked.join());
  assert.deepEqual(await statesOf(cluster), [['blue', 'unknown', null, false]]);
});

test('an engine with weights of another version than it was given is unknown from the next contact on', async (t) => {
  let fault: 'none' | 'pause' = 'none';
  const { said, endpoint } = await startEngine(t, () => fault);
  const cluster = await startCluster(t, [{ name: 'blue', endpoint, ranks: [0], pause: 'abort' }]);
  await cluster.update('a');
  assert.match(said.weight_version ?? '', /^a@[0-9a-f]+$/);
  fault = 'pause';
  await assert.rejects(cluster.update('a'), /with 404/);
  assert.deepEqual(await statesOf(cluster), [['blue', 'serving', 'a', false]]);
  // As after a restart.
  said.weight_version = 'default';
  await assert.rejects(cluster.update('a'), /with 404/);
  assert.deepEqual(await statesOf(cluster), [['blue', 'unknown', null, false]]);
});

test('an engine without the worker extension that is asked for answers again after the refused update', async (t) => {
  // As checkpoint-engine's extension, which the reference engine does not have.
  const instance = { link: 'checkpoint-engine', pause: 'wait' } as const;
  const { engine, cluster, makeModel } = await startBench(t, { ranks: 2, instance });
  await cluster.register('v', await makeModel(2));
  await assert.rejects(
    cluster.update('v'),
    /Method 'update_weights_from_ipc' is not implemented\.; if several of its workers failed, .* start it again$/,
  );
  assert.deepEqual(await statesOf(cluster), [['engine', 'unknown', null, false]]);
  const paused = await fetch(`${engine.endpoint}/is_paused`);
  assert.deepEqual(await paused.json(), { is_paused: false });
  const body = JSON.stringify({ prompt: 'x', max_tokens: 1 });
  const signal = AbortSignal.timeout(patience);
  const answer = await fetch(`${engine.endpoint}/v1/completions`, { method: 'POST', body, signal });
  assert.equal(answer.status, 200);
});
