/** Whole tensors, of which ranks announce to their engine workers only what these keep something of. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import { checkpointAt, type TensorShape } from '../../simulation/checkpoint.ts';
import { bucketBytes, type Fixture, withCluster } from './harness.ts';

/** Sixteen experts, of which each of four workers keeps four, and two tensors of which each keeps something. */
const names = [
  ...Array.from({ length: 16 }, (_, layer) => `layers.${layer}.mlp.weight`),
  'layers.0.o_proj.weight',
  'norm.weight',
];
const model: readonly TensorShape[] = names.map((name) => ({ name, dtype: 'BF16', shape: [2 ** 20] }));
const checkpoints = ['/models/a', '/models/b'].map((path) => checkpointAt(path, model, false));
/** Neither host has all bytes. */
const options = { keepsParts: true, checkpoints, ranksPerHost: 2, instances: [[0, 1, 2, 3]] };

/** Updates to a checkpoint by whole tensors; how many of these each worker of the first engine is given. */
async function givenBy({ user, succeeds, world }: Fixture, checkpoint: string, parts = true) {
  const workersOf = () => world.engines[0]!.workers;
  const before = workersOf().map(({ given }) => given);
  const report = await succeeds(user.update(checkpoint, { bucketBytes, parts }));
  assert.equal(report.instances[0]!.fed, 'whole');
  assert.ok(allArrived(report));
  return workersOf().map(({ given }, at) => given - before[at]!);
}

const all = [18, 18, 18, 18];
const own = [6, 6, 6, 6];

test('from the second update on a worker is given only what it keeps something of, and the engine holds all', async () => {
  await withCluster(options, async (fixture) => {
    assert.deepEqual(await givenBy(fixture, 'a'), all);
    assert.deepEqual(await givenBy(fixture, 'a'), own);
    await fixture.succeeds(fixture.user.register('b', '/models/b'));
    assert.deepEqual(await givenBy(fixture, 'b'), own, 'other bytes of the same layout');
    assert.equal(fixture.world.engines[0]!.acknowledged, `b@${checkpoints[1]!.digest}`);
    assert.deepEqual(await givenBy(fixture, 'a', false), all, 'without parts all are announced');
    assert.deepEqual(await givenBy(fixture, 'a'), own);
  });
});

test('workers of which each keeps something of nearly all tensors are given all: watching what they read would take longer', async () => {
  const divided = names.map((name) => ({
    name: name.replace('mlp', 'v_proj'),
    dtype: 'BF16',
    shape: [2 ** 20],
  }));
  const only = { ...options, checkpoints: [checkpointAt('/models/a', divided, false)] };
  await withCluster(only, async (fixture) => {
    await givenBy(fixture, 'a');
    assert.deepEqual(await givenBy(fixture, 'a'), all);
  });
});

test('workers that were restarted are given all in the same update', async () => {
  await withCluster(options, async (fixture) => {
    await givenBy(fixture, 'a');
    const [engine] = fixture.world.engines;
    engine!.restart();
    // As one that says nothing of its weights.
    engine!.said = { held: 'unknown' };
    assert.deepEqual(await givenBy(fixture, 'a'), all);
    assert.deepEqual(await givenBy(fixture, 'a'), own);
  });
});

test('what arrives with other bytes breaks the instance until all tensors come', async () => {
  await withCluster(options, async (fixture) => {
    const { user, fails, world } = fixture;
    await givenBy(fixture, 'a');
    world.engines[0]!.workers[1]!.nextLoad = 'corrupt';
    const message =
      /instance engine-0 does not hold the checkpoint: tensor \S+ (has another digest|differs between ranks)/;
    await fails(user.update('a', { bucketBytes }), 'WEIGHTCAST_VERIFICATION', message);
    assert.deepEqual(await givenBy(fixture, 'a'), all);
    assert.deepEqual(await givenBy(fixture, 'a'), own);
  });
});

test('a worker that fails is given all tensors by the next update', async () => {
  await withCluster(options, async (fixture) => {
    const { user, fails, world } = fixture;
    await givenBy(fixture, 'a');
    world.engines[0]!.workers[2]!.nextLoad = 'refuse';
    await fails(user.update('a', { bucketBytes }), 'WEIGHTCAST_WORKER_LINK', /shape mismatch/);
    assert.deepEqual(await givenBy(fixture, 'a'), all);
  });
});
