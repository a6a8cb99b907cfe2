import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkpointAt } from '../../simulation/checkpoint.ts';
import type { SimulatedEngine } from '../../simulation/engine.ts';
import type { WorkersSaid } from '../../src/engines/workers-said.ts';
import { bucketBytes, replaceSupervisor, versionsOf, withCluster } from './harness.ts';

const draft = {
  takes: 'apart',
  why: 'it takes the weights if the instance has hasDraftModel',
  refusal: null,
  unproven: null,
} as const;

/** How often an engine was paused. */
const pausesOf = (lines: readonly string[], { name }: SimulatedEngine) =>
  lines.filter((line) => line.endsWith(` ${name}: pauses`)).length;

test('what its workers would refuse is refused before an engine is paused, and others are updated', async () => {
  await withCluster({ pauses: true }, async ({ world, user, spares, succeeds, status }) => {
    const [engine] = world.engines;
    const refusals: [Partial<WorkersSaid>, RegExp][] = [
      [
        { refusal: 'vLLM packs the experts' },
        /engine-0 \(engine-0\) cannot be updated: vLLM packs the experts/,
      ],
      [{ unproven: 'quantised experts' }, /engine-0 \(engine-0\) cannot be updated: quantised experts/],
      [
        { devices: ['GPU-of-nobody'] },
        /has a worker on device GPU-of-nobody, and its ranks are on .*: give the instance the devices of its engine/,
      ],
    ];
    for (const [said, message] of refusals) {
      engine!.said = said;
      const report = await spares(user.update('a'), 'engine-0', 'WEIGHTCAST_ENGINE', message);
      assert.deepEqual([report.instances[0]!.outcome, report.instances[0]!.paused], ['unchanged', false]);
      assert.equal(pausesOf(world.trace.lines, engine!), 0);
      assert.deepEqual(versionsOf(await status()), [null, 'a']);
    }
    engine!.said = { unproven: 'quantised experts' };
    await succeeds(user.update('a', { acceptUnproven: true }));
    assert.equal(pausesOf(world.trace.lines, engine!), 1);
  });
});

test('what is only of its draft model keeps nobody from updating the target', async () => {
  await withCluster({}, async ({ world, user, succeeds }) => {
    world.engines[0]!.said = {
      draft: { ...draft, refusal: 'no record of the draft model', unproven: 'its experts' },
    };
    await succeeds(user.update('a'));
  });
});

test('a draft model that keeps its weights is said in the report and the status, until it takes them', async () => {
  await withCluster({}, async (fixture) => {
    const { world, user, succeeds, status } = fixture;
    const kept = async () => (await status()).instances.map(({ draftKept }) => draftKept);
    const why = 'the draft model of this engine (eagle3) has tensors of its own';
    world.engines[0]!.said = { draft };
    world.engines[1]!.said = { draft: { ...draft, takes: 'nothing', why } };
    const { instances } = await succeeds(user.update('a'));
    assert.deepEqual(
      instances.map(({ draftKept }) => draftKept),
      [draft.why, why],
    );
    assert.deepEqual(await kept(), [draft.why, why]);
    await replaceSupervisor(fixture);
    assert.deepEqual(await kept(), [draft.why, why]);
    for (const engine of world.engines) engine.said = { draft: { ...draft, takes: 'along', why: null } };
    await succeeds(user.update('a'));
    assert.deepEqual(await kept(), [null, null]);
  });
});

test('an engine that another cluster has updated, or broken, is unknown in the status, with what it holds', async () => {
  await withCluster({}, async ({ world, user, succeeds, status, wait }) => {
    await succeeds(user.update('a'));
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
    await wait(6_000);
    world.engines[0]!.said = { held: { version: 'theirs@00ff' } };
    world.engines[1]!.said = { held: { version: null } };
    const { instances } = await status();
    assert.deepEqual(
      instances.map(({ state, version }) => [state, version]),
      Array(2).fill(['unknown', null]),
    );
    assert.match(instances[0]!.problem!, /workers hold theirs@00ff, not a@.*: someone else has updated it/);
    assert.match(instances[1]!.problem!, /parts of several versions/);
    for (const engine of world.engines) engine.said = {};
    await succeeds(user.update('a'));
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
  });
});

test('an engine that does not answer is as it was said to be, and keeps no status waiting', async () => {
  await withCluster({}, async ({ world, user, succeeds, status, wait }) => {
    await succeeds(user.update('a'));
    await wait(6_000);
    world.engines[0]!.isMute = true;
    const askedAt = world.clock.now();
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
    assert.ok(world.clock.now() - askedAt < 1_500);
    world.engines[0]!.isMute = false;
  });
});

const experts = Array.from({ length: 16 }, (_, expert) => ({
  name: `layers.0.mlp.experts.${expert}.up_proj.weight`,
  dtype: 'BF16',
  shape: [2 * 2 ** 20],
}));

test('what waits for its layer in the device’s memory is budgeted before an engine is paused', async () => {
  const checkpoints = ['/models/a', '/models/b'].map((path) => checkpointAt(path, experts, false));
  const options = { pauses: true, checkpoints, deviceCapacity: 64 * 2 ** 20 };
  await withCluster(options, async ({ world, user, succeeds, spares, fails }) => {
    const [engine] = world.engines;
    engine!.said = { waiting: { experts: 1 } };
    const message =
      /^the engine worker of rank 0 keeps up to \d+ MiB .* until layer "layers\.0\.mlp\.experts" is whole, .*rank 0 has 64 MiB/;
    const update = user.update('a', { bucketBytes });
    const report = await spares(update, 'engine-0', 'WEIGHTCAST_MEMORY', message);
    assert.equal(report.instances[0]!.outcome, 'unchanged');
    assert.equal(pausesOf(world.trace.lines, engine!), 0);
    await fails(user.update('a', { bucketBytes, instances: ['engine-0'] }), 'WEIGHTCAST_MEMORY', message);
    // Of experts no more waits than are its own; the other engine, which keeps nothing, was updated all the time.
    engine!.said = { waiting: { experts: 0.25 } };
    await succeeds(user.update('a', { bucketBytes }));
  });
});
