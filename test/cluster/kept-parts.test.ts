import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import {
  type ReferenceEngineOptions,
  type RunningEngine,
  startReferenceEngine,
} from '../../scenarios/reference-engine/index.ts';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { allArrived } from '../../simulation/all-arrived.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import type { InstanceReport, UpdateReport } from '../../src/index.ts';
import { startBench } from './harness.ts';

/** Of all tests here, in their order. */
const { engine, cluster, makeModel, deviceNamespace } = await startBench(
  { after },
  { ranks: 2, keepsParts: true },
);
const models = { a: await makeModel(11), b: await makeModel(12) };
await cluster.register('a', models.a);
await cluster.register('b', models.b);

const restarted: RunningEngine[] = [];
after(async () => {
  for (const one of restarted) await one.stop();
});

const instanceOf = ({ instances }: UpdateReport): InstanceReport => instances[0]!;
const uploadedOf = ({ links }: UpdateReport) => links.map(({ uploadedBytes }) => uploadedBytes);

async function assertHolds(name: keyof typeof models): Promise<void> {
  await verifyWeights(engine.endpoint, await openCheckpoint(models[name]));
}

/** The engine ends, and is started again at the same address, with other workers. */
async function restartEngine(faults: NonNullable<ReferenceEngineOptions['faults']> = {}): Promise<void> {
  await engine.stop();
  const place = { ranks: 2, deviceNamespace, deviceCapacity: 0, port: Number(new URL(engine.endpoint).port) };
  const another = await startReferenceEngine({
    name: 'test',
    model: models.a,
    keepsParts: true,
    faults,
    ...place,
  });
  restarted.push(another);
}

test('each rank uploads what its worker keeps and broadcasts nothing, and the engine holds the checkpoint bit for bit', async () => {
  const whole = await cluster.update('a');
  assert.equal(instanceOf(whole).fed, 'whole');
  const parts = await cluster.update('b');
  assert.equal(instanceOf(parts).fed, 'parts');
  assert.equal(instanceOf(parts).whyWhole, null);
  assert.ok(allArrived(parts));
  await assertHolds('b');
  // Norms are kept whole by both; all else is divided.
  const [one, other] = uploadedOf(parts) as [number, number];
  assert.ok(
    one === other && one > parts.bytes / 2 && one < parts.bytes * 0.52,
    `${one} of ${parts.bytes} bytes`,
  );
  assert.deepEqual(
    parts.links.map(({ broadcastBytes }) => broadcastBytes),
    [0, 0],
  );
  const wholeBytes = whole.links.map(({ uploadedBytes, broadcastBytes }) => uploadedBytes + broadcastBytes);
  assert.ok(wholeBytes.every((bytes) => bytes >= whole.bytes));
});

test('with parts: false whole tensors are sent', async () => {
  const report = await cluster.update('a', { parts: false });
  assert.equal(instanceOf(report).fed, 'whole');
  assert.equal(instanceOf(report).whyWhole, null);
  await assertHolds('a');
});

test('workers that were restarted get whole tensors', async () => {
  await restartEngine({ damagesPartOf: 'model.layers.1.self_attn.o_proj.weight', rank: 1 });
  const report = await cluster.update('b');
  assert.equal(instanceOf(report).fed, 'whole');
  assert.equal(instanceOf(report).whyWhole, 'its engine was restarted, or updated by someone else');
  assert.ok(allArrived(report));
  await assertHolds('b');
});

test('a part of which another byte arrives is found, and breaks the instance until whole tensors come', async () => {
  const message =
    /does not hold the checkpoint: tensor model\.layers\.1\.self_attn\.o_proj\.weight has another digest .*sum of 2 parts/;
  await assert.rejects(cluster.update('a'), { code: 'WEIGHTCAST_VERIFICATION', message });
  assert.equal((await cluster.status()).instances[0]!.state, 'broken');
  const report = await cluster.update('a', { parts: false });
  assert.equal(instanceOf(report).outcome, 'updated');
  await assertHolds('a');
});
