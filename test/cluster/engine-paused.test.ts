import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Fault, startCluster, startEngine, statesOf } from './fake-instance.ts';

const label = '/update_weight_version';
const prefix = ['/reset_prefix_cache', '/reset_prefix_cache?reset_external=true'];
/** What the engine is asked at once, in any order: here by their names. */
const settled = ['/reset_encoder_cache', '/reset_mm_cache', ...prefix, label];
const loaded = ['/collective_rpc', 'load'];
const installed = [...loaded, ...settled];

function inOrder(asked: readonly string[]): string[] {
  const from = asked.findIndex((route) => settled.includes(route));
  if (from < 0) return [...asked];
  const to = from + settled.length;
  return [...asked.slice(0, from), ...asked.slice(from, to).sort(), ...asked.slice(to)];
}

test('an engine is paused before its weights change and resumed after all instances are updated', async (t) => {
  const { asked, endpoint } = await startEngine(t, () => 'none');
  const instance = { name: 'blue', endpoint, ranks: [0], pause: 'abort' } as const;
  const cluster = await startCluster(t, [instance]);
  await cluster.update('a');
  assert.deepEqual(inOrder(asked), ['/pause?mode=abort', ...installed, '/resume']);
  assert.deepEqual(await statesOf(cluster), [['blue', 'serving', 'a', false]]);
});

test('an engine whose weights are half new stays paused, which is said, and the next update resumes it', async (t) => {
  let fault: Fault = 'load';
  const { asked, endpoint } = await startEngine(t, () => fault, { is_paused: false, is_sleeping: false });
  const cluster = await startCluster(t, [{ name: 'blue', endpoint, ranks: [0], pause: 'wait' }]);
  await assert.rejects(cluster.update('a'), (error: Error) => {
    assert.match(error.message, /no such tensor/);
    assert.match(error.message, /; instance blue is broken and stays paused: update it again/);
    assert.ok(error.message.includes(`weightcast resume --endpoint ${endpoint}`), error.message);
    return true;
  });
  assert.deepEqual(asked, ['/pause?mode=wait', '/collective_rpc', 'load']);
  assert.deepEqual(await statesOf(cluster), [['blue', 'broken', null, true]]);
  fault = 'none';
  // That it is paused is our own doing, so it does not stand in the way.
  await cluster.update('a');
  assert.deepEqual(inOrder(asked.slice(3)), ['/pause?mode=wait', ...installed, '/resume']);
  assert.deepEqual(await statesOf(cluster), [['blue', 'serving', 'a', false]]);
});

test('an engine in which nothing was installed is resumed and keeps its version', async (t) => {
  let fault: Fault = 'none';
  const { asked, endpoint } = await startEngine(t, () => fault);
  const cluster = await startCluster(t, [{ name: 'blue', endpoint, ranks: [0], pause: 'abort' }]);
  fault = 'trigger';
  await assert.rejects(cluster.update('a'), /POST \/collective_rpc with 404$/);
  assert.deepEqual(asked, ['/pause?mode=abort', '/collective_rpc', '/resume']);
  assert.deepEqual(await statesOf(cluster), [['blue', 'unknown', null, false]]);

  fault = 'none';
  await cluster.update('a');
  fault = 'trigger';
  await assert.rejects(cluster.update('a'), /POST \/collective_rpc with 404$/);
  assert.equal(asked.at(-1), '/resume');
  assert.deepEqual(await statesOf(cluster), [['blue', 'serving', 'a', false]]);
});

test('an engine whose caches cannot be dropped holds the new version all the same, and is resumed', async (t) => {
  let fault: Fault = 'reset';
  const { asked, endpoint } = await startEngine(t, () => fault);
  const cluster = await startCluster(t, [{ name: 'blue', endpoint, ranks: [0], pause: 'wait' }]);
  await assert.rejects(cluster.update('a'), {
    name: 'EngineError',
    message: `updating to a succeeded, but instance blue may answer from caches that the old weights computed (engine ${endpoint} answered POST /reset_prefix_cache with 404): POST /reset_prefix_cache to ${endpoint}, or update it again`,
  });
  assert.equal(asked.at(-1), '/resume');
  assert.ok(asked.includes(label));
  assert.deepEqual(await statesOf(cluster), [['blue', 'serving', 'a', false]]);
  fault = 'none';
  await cluster.update('a');
});

test('without a pause caches are dropped unless requests use them, which is no error and is said', async (t) => {
  let fault: Fault = 'none';
  const { asked, endpoint } = await startEngine(t, () => fault);
  const cluster = await startCluster(t, [{ name: 'blue', endpoint, ranks: [0] }]);
  const cachesAfter = async () => (await cluster.update('a')).instances[0]!.caches;
  assert.equal(await cachesAfter(), 'dropped');
  assert.deepEqual(inOrder(asked), installed);
  fault = 'reset';
  assert.equal(await cachesAfter(), 'kept');
  assert.deepEqual(await statesOf(cluster), [['blue', 'serving', 'a', false]]);
});

test('an engine that calls its weights otherwise than it was told is named, and resumed', async (t) => {
  const { asked, endpoint } = await startEngine(t, () => 'label', { weight_version: 'default' });
  const cluster = await startCluster(t, [{ name: 'blue', endpoint, ranks: [0], pause: 'keep' }]);
  await assert.rejects(
    cluster.update('a'),
    /^EngineError: updating to a succeeded, but instance blue was told that its weights are a@[0-9a-f]+, and says that they are default$/,
  );
  assert.deepEqual(inOrder(asked), ['/pause?mode=keep', ...installed, '/resume']);
  // That it keeps the name that it had says nothing of its weights.
  assert.deepEqual(await statesOf(cluster), [['blue', 'serving', 'a', false]]);
});

test('an instance whose weights are whole is neither broken nor left paused by another one that fails', async (t) => {
  const whole = await startEngine(t, () => 'none');
  const failing = await startEngine(t, () => 'answer');
  const options = { pause: 'abort' } as const;
  const cluster = await startCluster(t, [
    { name: 'blue', endpoint: whole.endpoint, ranks: [0], ...options },
    { name: 'green', endpoint: failing.endpoint, ranks: [1], ...options },
  ]);
  const { instances } = await cluster.update('a');
  assert.deepEqual(
    instances.map(({ name, outcome, paused }) => [name, outcome, paused]),
    [
      ['blue', 'updated', false],
      ['green', 'broken', true],
    ],
  );
  const { code, message } = instances[1]!.error!;
  assert.equal(code, 'WEIGHTCAST_ENGINE');
  assert.match(message, /collective_rpc with 500.*; instance green is broken and stays paused/);
  assert.equal(whole.asked.at(-1), '/resume');
  assert.ok(!failing.asked.includes('/resume'));
  assert.deepEqual(await statesOf(cluster), [
    ['blue', 'serving', 'a', false],
    ['green', 'broken', null, true],
  ]);
});

test('an engine that does not resume has the new version all the same, and is resumed at the end at the latest', async (t) => {
  let fault: Fault = 'resume';
  const { asked, endpoint } = await startEngine(t, () => fault, { is_paused: false });
  const cluster = await startCluster(t, [{ name: 'blue', endpoint, ranks: [0], pause: 'abort' }]);
  const { instances } = await cluster.update('a');
  assert.deepEqual([instances[0]!.outcome, instances[0]!.paused], ['updated', true]);
  assert.equal(
    instances[0]!.error!.message,
    `instance blue is still paused (engine ${endpoint} answered POST /resume with 404), and is tried to be resumed until the cluster ends: weightcast resume --endpoint ${endpoint}`,
  );
  assert.deepEqual(await statesOf(cluster), [['blue', 'serving', 'a', true]]);
  asked.length = 0;
  fault = 'none';
  await cluster.stop();
  assert.ok(asked.includes('/resume'));
});

test('an engine that cannot be paused is left alone, the others are updated, and atomic says so', async (t) => {
  const good = await startEngine(t, () => 'none');
  const bad = await startEngine(t, () => 'pause');
  const cluster = await startCluster(t, [
    { name: 'blue', endpoint: good.endpoint, ranks: [0], pause: 'abort' },
    { name: 'green', endpoint: bad.endpoint, ranks: [1], pause: 'abort' },
  ]);
  await assert.rejects(cluster.update('a', { atomic: true }), {
    name: 'EngineError',
    message: /POST \/pause\?mode=abort with 404; unchanged: green; the update succeeded in blue$/,
  });
  assert.equal(good.asked.at(-1), '/resume');
  assert.ok(!bad.asked.includes('/collective_rpc'));
  assert.deepEqual(await statesOf(cluster), [
    ['blue', 'serving', 'a', false],
    ['green', 'unknown', null, false],
  ]);
});

test('a tensor that an engine worker cannot receive is refused before any engine is called', async (t) => {
  const { asked, endpoint } = await startEngine(t, () => 'none');
  const cluster = await startCluster(t, [
    { name: 'blue', endpoint, ranks: [0], link: 'checkpoint-engine', pause: 'abort' },
  ]);
  const strange = { dtype: 'F6_E2M3', shape: [4], data: new Uint8Array(3) };
  await cluster.register('strange', { tensors: { 'experts.w1': strange } });
  await assert.rejects(cluster.update('strange'), {
    name: 'CheckpointError',
    message: /"experts\.w1" of dtype F6_E2M3/,
  });
  assert.deepEqual(asked, []);
});
