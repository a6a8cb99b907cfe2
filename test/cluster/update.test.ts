import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { collectiveRpc, verifyWeights } from '../../scenarios/verify-weights.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import type { Progress } from '../../src/index.ts';
import { withBench } from './harness.ts';
import { readTensors } from './tensors.ts';

test('a checkpoint flows into every worker of the engine, bit for bit, and nothing stays behind', async () => {
  const progress: Progress[] = [];
  await withBench(
    { ranks: 2, onProgress: (one) => progress.push(one) },
    async ({ engine, cluster, makeModel, scratch }) => {
      const model = await makeModel(2);
      const registered = await cluster.register('step-1', model);
      const free = await freeMemory(engine.endpoint);
      const report = await cluster.update('step-1');
      assert.equal(report.mode, 'pipelined');
      assert.equal(report.verified, true);
      assert.equal(report.tensors, registered.tensors);
      assert.equal(report.digest, registered.digest);
      await verifyWeights(engine.endpoint, await openCheckpoint(model));

      const dump = join(scratch, 'dump.safetensors');
      await collectiveRpc(engine.endpoint, 'dump_weights', [dump]);
      assert.deepEqual(await readTensors(dump), await readTensors(model));

      const { instances } = await cluster.status();
      assert.deepEqual(instances[0]?.version, { checkpoint: 'step-1', digest: registered.digest });
      assert.equal(instances[0]?.state, 'serving');
      assert.deepEqual(await freeMemory(engine.endpoint), free);
      for (const activity of ['load', 'update'] as const) {
        const last = progress.filter((one) => one.activity === activity && one.rank === 1).at(-1);
        assert.ok(last !== undefined && last.totalBytes > 0, `progress of the ${activity} was reported`);
        assert.equal(last.doneBytes, last.totalBytes, `to its end`);
      }
      assert.equal((await cluster.update('step-1', { verify: false })).verified, null, 'nobody was asked');
    },
  );
});

test('update follows update: other weights, the same again, another name', async () => {
  await withBench({ ranks: 2 }, async ({ engine, cluster, makeModel }) => {
    const [one, two] = [await makeModel(11), await makeModel(12)];
    await cluster.register('a', one);
    await cluster.register('b', two);
    let epoch = 0;
    for (const [name, model] of [
      ['a', one],
      ['b', two],
      ['b', two],
      ['a', one],
    ] as const) {
      const report = await cluster.update(name);
      assert.ok(report.epoch > epoch, 'epochs only grow');
      epoch = report.epoch;
      await verifyWeights(engine.endpoint, await openCheckpoint(model));
    }
    // The same name with other weights: the old ones are let go of.
    await cluster.register('a', two);
    await cluster.update('a');
    await verifyWeights(engine.endpoint, await openCheckpoint(two));
    assert.equal((await cluster.status()).checkpoints.length, 2);
  });
});

test('tensors from the memory of the trainer are a checkpoint too', async () => {
  await withBench({ ranks: 2 }, async ({ engine, cluster, makeModel }) => {
    const model = await makeModel(3);
    const tensors = await readTensors(model);
    await cluster.register('from-memory', { tensors });
    const report = await cluster.update('from-memory');
    assert.equal(report.verified, true);
    await verifyWeights(engine.endpoint, await openCheckpoint(model));
  });
});

test('files in /dev/shm are used where they are, and stay', async () => {
  await withBench({ ranks: 2 }, async ({ engine, cluster, makeModel }) => {
    const { cpSync, mkdtempSync, readdirSync, rmSync } = await import('node:fs');
    const shared = mkdtempSync('/dev/shm/adopted-');
    try {
      cpSync(await makeModel(4), shared, { recursive: true });
      const before = readdirSync(shared);
      await cluster.register('adopted', shared);
      await cluster.update('adopted');
      await verifyWeights(engine.endpoint, await openCheckpoint(shared));
      assert.deepEqual(readdirSync(shared), before);
    } finally {
      rmSync(shared, { recursive: true, force: true });
    }
  });
});

test('memory too short for three slots makes the update serial, too short for two ends it with a MemoryError', async () => {
  const bytes = 8 * 2 ** 20;
  const ranks = 2;
  let held = 0;
  await withBench({ ranks, bytes }, async ({ engine }) => {
    const [memory] = await freeMemory(engine.endpoint);
    held = memory!.total - memory!.free;
  });
  let largest = 0;
  const with_ = async (slots: number, check: (run: () => Promise<{ mode: string }>) => Promise<void>) => {
    // A tenth of what is free is left alone, and each slot is a little larger than the largest tensor.
    const deviceCapacity = held + Math.ceil((largest * slots) / 0.9);
    await withBench({ ranks, bytes, deviceCapacity }, async ({ cluster, makeModel }) => {
      await cluster.register('tight', await makeModel(5));
      await check(() => cluster.update('tight'));
    });
  };
  await withBench({ ranks, bytes }, async ({ makeModel }) => {
    const index = await openCheckpoint(await makeModel(5));
    largest = Math.max(...index.bytes);
  });
  await with_(3.1, async (run) => assert.equal((await run()).mode, 'pipelined'));
  await with_(2.5, async (run) => assert.equal((await run()).mode, 'serial'));
  await with_(1.5, (run) =>
    assert.rejects(run, (error: Error) => {
      assert.equal(error.name, 'MemoryError');
      assert.match(error.message, /model\.embed_tokens\.weight|lm_head\.weight/);
      assert.match(error.message, /rank [01]/);
      return true;
    }),
  );
});

test('a bad checkpoint is refused in one line, and changes nothing', async () => {
  await withBench({ ranks: 1 }, async ({ cluster, makeModel, scratch }) => {
    await cluster.register('good', await makeModel(6));
    await assert.rejects(cluster.register('missing', join(scratch, 'nowhere')), {
      name: 'CheckpointError',
      message: /nowhere/,
    });
    await assert.rejects(cluster.update('missing'), { name: 'UsageError', message: /missing/ });
    assert.deepEqual(
      (await cluster.status()).checkpoints.map(({ checkpoint }) => checkpoint),
      ['good'],
    );
    assert.equal((await cluster.update('good')).verified, true);
  });
});

async function freeMemory(endpoint: string): Promise<{ free: number; total: number }[]> {
  return (await collectiveRpc(endpoint, 'device_memory', [])) as { free: number; total: number }[];
}
