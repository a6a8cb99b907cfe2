import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type ReferenceEngineOptions, startReferenceEngine } from '../../scenarios/reference-engine/index.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { eventually, isRunning } from '../cluster/harness.ts';
import { patience } from '../patience.ts';
import { SeededRandom } from '../plan/seeded-random.ts';
import { remains, TestEngine } from './engine-harness.ts';
import { writeRandomModel } from './random-model.ts';

test('an engine with a dead worker is unhealthy and fails every request at once', async (t) => {
  const engine = await TestEngine.start(t);
  const [, pid] = engine.running.workerPids;
  await engine.post('/pause');
  const held = engine.post('/v1/completions', { prompt: 'x' });
  await new Promise((resolve) => setTimeout(resolve, 200));
  process.kill(pid!, 'SIGKILL');
  const answer = await held;
  assert.equal(answer.status, 500);
  assert.match(answer.body.error.message, /the engine is dead: worker 1 ended \(SIGKILL\)/);
  assert.deepEqual(await engine.get('/health'), { status: 503, body: '' });
  await engine.post('/resume');
  for (const failed of [
    await engine.post('/v1/completions', { prompt: 'x' }),
    await engine.rpc('weight_digests'),
    await engine.rpc('dump_weights', [join(engine.directory, 'dump')]),
  ]) {
    assert.equal(failed.status, 500);
    assert.match(failed.body.error.message, /worker 1 ended \(SIGKILL\)/);
  }
  assert.equal((await engine.get('/v1/models')).status, 200, 'the server itself still answers');
});

test('a worker that dies during an update fails the call and disconnects from its rank', async (t) => {
  const engine = await TestEngine.start(t, { faults: { exitAtBucket: 1, rank: 0 } });
  const { answer, sent } = await engine.update(engine.makeModel(1));
  const { status, body } = await answer;
  assert.equal(status, 500);
  assert.match(body.error.message, /worker 0 ended \(SIGKILL\)/);
  assert.match((await sent)[0]!.error!.message, /closed the connection while loading a bucket/);
  assert.equal((await engine.get('/health')).status, 503);
});

test('the device memory of a killed worker is freed', async (t) => {
  const engine = await TestEngine.start(t);
  assert.equal(remains(engine.namespace).length, 2);
  process.kill(engine.running.workerPids[0]!, 'SIGKILL');
  await eventually('its device memory is freed', () => remains(engine.namespace).length === 1);
});

test('stopping an engine ends its processes with exit code 0', async (t) => {
  const engine = await TestEngine.start(t);
  assert.ok(engine.running.pids.every(isRunning));
  assert.equal(engine.running.pids.length, 3);
  await engine.running.stop();
  assert.ok(!engine.running.pids.some(isRunning));
  assert.deepEqual(remains(engine.namespace), []);
  assert.equal(await engine.running.exited, 'exit code 0');
  await engine.running.stop();
});

test('when the server is killed its workers end and nothing is left behind', async (t) => {
  const engine = await TestEngine.start(t);
  process.kill(engine.running.serverPid, 'SIGKILL');
  assert.equal(await engine.running.exited, 'SIGKILL');
  await eventually('the workers end', () => !engine.running.workerPids.some(isRunning));
  assert.deepEqual(remains(engine.namespace), []);
});

for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
  test(`an engine ends when its parent ends by ${signal}, even during an update`, async (t) => {
    const { parent, namespace, engine } = await startParent(t);
    const links = Object.fromEntries(
      [0, 1].map((rank) => [`HOST-${namespace}-${rank}`, `ipc://@no-${namespace}`]),
    );
    const call = fetch(`${engine.endpoint}/collective_rpc`, {
      method: 'POST',
      body: JSON.stringify({ method: 'update_weights_from_weightcast', args: [links] }),
    });
    call.catch(() => {});
    parent.kill(signal);
    await eventually('all processes end', () => !engine.pids.some(isRunning));
    assert.deepEqual(remains(namespace), []);
  });
}

async function startParent(t: TestContext) {
  const model = join(temporaryDirectory(t), 'model.safetensors');
  writeRandomModel(model, new SeededRandom(1));
  const namespace = `engine-${randomBytes(6).toString('hex')}`;
  const path = fileURLToPath(new URL('fixtures/engine-parent.js', import.meta.url));
  const parent = fork(path, [model, namespace]);
  t.after(() => parent.kill('SIGKILL'));
  const [engine] = (await once(parent, 'message', { signal: AbortSignal.timeout(patience) })) as [
    { endpoint: string; pids: number[] },
  ];
  return { parent, namespace, engine };
}

test('an engine that cannot start fails with a one-line error and leaves nothing behind', async (t) => {
  const directory = temporaryDirectory(t);
  const model = join(directory, 'model.safetensors');
  writeRandomModel(model, new SeededRandom(1));
  const damaged = join(directory, 'damaged.safetensors');
  writeFileSync(damaged, 'no checkpoint');
  const taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  t.after(() => taken.close());
  const { port } = taken.address() as { port: number };
  const namespace = `engine-${randomBytes(6).toString('hex')}`;
  const refused = (options: Partial<ReferenceEngineOptions>, name: string, message: RegExp) =>
    assert.rejects(
      startReferenceEngine({
        name: 'tiny',
        model,
        ranks: 2,
        deviceNamespace: namespace,
        deviceCapacity: 2 ** 22,
        ...options,
      }),
      (error: Error) => {
        assert.equal(error.name, name, error.message);
        assert.match(error.message, message);
        assert.doesNotMatch(error.message, /\n/);
        return true;
      },
    );
  await refused({ deviceCapacity: 8192 }, 'MemoryError', /does not fit into device HOST-.*-0 of rank 0/);
  await refused({ model: damaged }, 'CheckpointError', /damaged\.safetensors/);
  await refused({ model: join(directory, 'nowhere') }, 'CheckpointError', /nowhere/);
  await refused({ port }, 'UsageError', new RegExp(`cannot listen on 127\\.0\\.0\\.1, port ${port}`));
  await refused({ ranks: 0 }, 'UsageError', /ranks/);
  await refused({ deviceNamespace: 'a/b' }, 'UsageError', /namespace/);
  assert.deepEqual(remains(namespace), []);
});
