import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { combineParts } from '../../src/checkpoint/parts.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { digestTensors, Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import { readTensors } from '../cluster/tensors.ts';
import { TestEngine } from './engine-harness.ts';

/** Shared by the tests that leave their engine healthy. */
const engine = await TestEngine.start({ after });

const prompts = Array.from({ length: 8 }, (_, number) => `prompt ${number}`);

test('completions are equal for equal weights and differ for different ones', async () => {
  const answers = async () =>
    Promise.all(prompts.map(async (prompt) => (await engine.complete(prompt, 40)).text));
  const dummy = await answers();
  assert.deepEqual(await answers(), dummy);
  assert.equal(new Set(dummy).size, prompts.length, 'each prompt has a different completion');
  const [one, two] = [engine.makeModel(1), engine.makeModel(2)];
  await engine.install(one, 'one@1', 1);
  const first = await answers();
  await engine.install(two, 'two@2', 2);
  const second = await answers();
  await engine.install(one, 'one@1', 3);
  assert.deepEqual(await answers(), first);
  assert.equal(new Set([...dummy, ...first, ...second]).size, 3 * prompts.length);
});

test('an update over the worker link reaches every worker, and the engine reports the new version', async (t) => {
  const engine = await TestEngine.start(t, { ranks: 4 });
  assert.equal((await engine.complete('x')).version, 'dummy');
  const memory = await engine.rpc('device_memory');
  const path = engine.makeModel(3);
  const index = await openCheckpoint(path);
  const installed = await engine.install(path, 'step-3@abc');

  const pool = new ThreadPool(1);
  const file = Mapping.open(path, false);
  const expected = await digestTensors(pool, file, index.offsets, index.bytes);
  file.close();
  pool.close();
  const reports = installed.map((report, rank) => ({ rank, ...report }));
  assert.deepEqual(combineParts(reports, expected), { ok: true, badCount: 0, bad: [] });
  await verifyWeights(engine.running.endpoint, index);
  assert.equal((await engine.complete('x')).version, 'step-3@abc');
  assert.deepEqual(await engine.rpc('device_memory'), memory, 'the link buffers are unmapped');
});

test('a dump is one safetensors file with exactly the installed tensors', async () => {
  const path = engine.makeModel(4);
  await engine.install(path, 'v@4');
  const dump = join(engine.directory, 'dump.safetensors');
  // Twice, because the second dump replaces the first.
  for (const round of [1, 2]) {
    assert.deepEqual(await engine.rpc('dump_weights', [dump]), {
      status: 200,
      body: { results: [null, null] },
    });
    assert.deepEqual(await readTensors(dump), await readTensors(path), `round ${round}`);
  }
  const strays = readdirSync(engine.directory).filter((name) => name.includes('partial'));
  assert.deepEqual(strays, []);
});

test('a device without a link fails with a KeyError before any worker connects', async () => {
  const [first, second] = engine.running.deviceUuids;
  const before = await engine.complete('x');
  const links = { [first!]: `ipc://@nobody-listens-${engine.namespace}` };
  const startedAt = performance.now();
  const { status, body } = await engine.rpc('update_weights_from_weightcast', [links]);
  assert.equal(status, 500);
  assert.match(body.error.message, new RegExp(`KeyError: '${second}'`));
  assert.ok(performance.now() - startedAt < 1_500, 'no worker waited for a connection');
  assert.deepEqual(await engine.complete('x'), before);
});

test('an update from ranks that do not listen fails, and the engine stays healthy', async () => {
  const links = Object.fromEntries(
    engine.running.deviceUuids.map((uuid) => [uuid, `ipc://@nobody-${uuid}-${engine.namespace}`]),
  );
  const { status, body } = await engine.rpc('update_weights_from_weightcast', [links]);
  assert.equal(status, 500);
  assert.match(body.error.message, /no rank listens at ipc:\/\/@nobody/);
  assert.equal((await engine.get('/health')).status, 200);
  await engine.install(engine.makeModel(5), 'v@5');
  assert.equal((await engine.complete('x')).version, 'v@5');
});

test('after a partly failed update the engine reports version broken until the next update succeeds', async (t) => {
  const faults = { failLoadOfTensor: 'lm_head.weight', rank: 1, once: true };
  const engine = await TestEngine.start(t, { faults });
  const path = engine.makeModel(6);
  const { answer, sent } = await engine.update(path);
  const { status, body } = await answer;
  assert.equal(status, 500);
  assert.match(body.error.message, /lm_head\.weight is refused on purpose/);
  assert.match((await sent)[1]!.error!.message, /lm_head\.weight is refused on purpose/);
  assert.equal((await engine.get('/health')).status, 200);
  assert.equal((await engine.complete('x')).version, 'broken');
  await engine.install(path, 'v@6', 2);
  await verifyWeights(engine.running.endpoint, await openCheckpoint(path));
  assert.equal((await engine.complete('x')).version, 'v@6');
});

test('a call that exceeds its timeout fails, and the engine stays busy until its workers are done', async (t) => {
  const faults = { hangAtBucket: 1, rank: 0, once: true };
  const engine = await TestEngine.start(t, { faults });
  const path = engine.makeModel(7);
  const { answer, sent } = await engine.update(path, { callSeconds: 0.5 });
  const { status, body } = await answer;
  assert.equal(status, 500);
  assert.match(
    body.error.message,
    /worker 0 did not finish receiveWeights in 500 ms|busy for more than 500 ms/,
  );
  const next = await engine.rpc('weight_digests', [], 0.1);
  assert.equal(next.status, 500);
  assert.match(next.body.error.message, /earlier calls were not done within 100 ms/);
  assert.match((await sent)[0]!.error!.message, /closed the connection while loading a bucket/);
  assert.equal((await engine.rpc('weight_digests')).status, 200);
  await engine.install(path, 'v@7', 2);
});

test('a dump into a missing directory fails and has no other effect', async () => {
  const nowhere = join(engine.directory, 'missing', 'dump.safetensors');
  const { status, body } = await engine.rpc('dump_weights', [nowhere]);
  assert.equal(status, 500);
  assert.match(body.error.message, /missing\/dump\.safetensors/);
  assert.ok((await engine.complete('x')).text);
});
