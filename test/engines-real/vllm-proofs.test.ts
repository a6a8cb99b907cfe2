import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { Baseline, type Cluster, type InstanceReport, type UpdateOptions } from '../../src/index.ts';
import { startCluster } from './one-engine.ts';
import { sharedEngines } from './shared-engines.ts';
import { model, skip, type VllmServer } from './vllm-server.ts';

async function registered(t: TestContext, { endpoint }: VllmServer): Promise<Cluster> {
  const cluster = await startCluster(t, { endpoint });
  for (const name of ['A', 'B']) await cluster.register(name, model(name));
  return cluster;
}

async function installed(cluster: Cluster, name: string, options: UpdateOptions = {}) {
  const report = await cluster.update(name, options);
  const [{ proofs }] = report.instances as [InstanceReport];
  assert.equal(proofs.arrived, 'holds');
  return proofs.installed;
}

async function spoiled(cluster: Cluster, server: VllmServer, how: 'scale' | 'stale', message: RegExp) {
  await server.post('/collective_rpc', { method: 'spoil_next', args: [how] });
  await assert.rejects(cluster.update('B', {}), { name: 'VerificationError', message });
  assert.equal((await cluster.status()).instances[0]!.state, 'broken');
}

const stale = /rank 0 holds other weights than .*: lm_head:cpu_linear\S*; instance engine is broken/;

test('what a vLLM holds after an update is compared with one that was started with the weights, and with itself', {
  skip,
}, async (t) => {
  const { engines, ofB } = await sharedEngines();
  const { server } = engines['weight-transfer engine'];
  const { server: extended, fresh } = engines['worker extension'];
  const { baseline } = fresh;
  const cluster = await registered(t, server);

  await t.test('an engine is the same after it has said what it holds, by either face', async () => {
    for (const engine of [server, extended]) {
      const before = await engine.answers();
      const version = await engine.get('/weight_info');
      const held = await Baseline.of([{ endpoint: engine.endpoint }]);
      assert.deepEqual(await engine.answers(), before);
      assert.deepEqual(await engine.get('/weight_info'), version);
      // What has been asked in between changes nothing of it.
      assert.deepEqual(await Baseline.of([{ endpoint: engine.endpoint }]), held);
    }
  });

  await t.test('an update holds against the baseline of a fresh start, in a session of vLLM', async () => {
    assert.equal(await installed(cluster, 'B', { verify: { baseline } }), 'holds');
    assert.deepEqual(await server.answers(), ofB);
    assert.equal(await installed(cluster, 'A'), 'unknown');
    assert.equal(await installed(cluster, 'B'), 'consistent');
    await assert.rejects(installed(cluster, 'A', { verify: { baseline } }), {
      name: 'VerificationError',
      message: /rank 0 holds other weights than the baseline: model\.embed_tokens\.weight, .* and \d+ more; /,
    });
  });

  await t.test('a weight that the model has scaled, or a packed copy that is old, is found', async () => {
    await spoiled(
      cluster,
      server,
      'scale',
      /than after an earlier update to the same version: model\.norm\.weight; /,
    );
    assert.notDeepEqual(await server.answers(), ofB);
    // A baseline has contradicted what was held at A, which nobody had confirmed: it was forgotten.
    assert.equal(await installed(cluster, 'A'), 'unknown');
    await spoiled(cluster, server, 'stale', stale);
    assert.notDeepEqual(await server.answers(), ofB);
    assert.equal(await installed(cluster, 'B'), 'consistent');
    assert.deepEqual(await server.answers(), ofB);
  });

  await t.test('the same by the worker extension', async (t) => {
    const own = await registered(t, extended);
    assert.equal(await installed(own, 'A'), 'unknown');
    assert.equal(await installed(own, 'B', { verify: { baseline } }), 'holds');
    assert.equal(await installed(own, 'A'), 'consistent');
    await spoiled(own, extended, 'stale', stale);
    assert.equal(await installed(own, 'B', { verify: { baseline } }), 'holds');
    assert.deepEqual(await extended.answers(), ofB);
  });
});
