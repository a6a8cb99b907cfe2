import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { Baseline, type Cluster, type InstanceReport, type UpdateOptions } from '../../src/index.ts';
import { startCluster } from './one-engine.ts';
import { model, skip, startOnCpu, type VllmServer } from './vllm-server.ts';

const spoiler = ['--worker-extension-cls', 'spoiler.Spoiler'];
const transferEngine = ['--weight-transfer-config', '{"backend": "weightcast"}'];

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
  const fresh = await startOnCpu(t, 'B', spoiler);
  const server = await startOnCpu(t, 'A', [...transferEngine, ...spoiler]);
  const cluster = await registered(t, server);
  const ofB = await fresh.answers();
  const baseline = await Baseline.of([{ endpoint: fresh.endpoint }]);

  await t.test('an engine is the same after it has said what it holds, by either face', async () => {
    assert.deepEqual(await fresh.answers(), ofB);
    const before = await server.answers();
    const { weight_version } = (await server.get('/weight_info')) as { weight_version: string };
    const ofA = await Baseline.of([{ endpoint: server.endpoint }]);
    assert.deepEqual(await server.answers(), before);
    assert.deepEqual(await server.get('/weight_info'), { weight_version });
    // What has been asked in between changes nothing of it.
    assert.deepEqual(await Baseline.of([{ endpoint: server.endpoint }]), ofA);
    assert.notDeepEqual(ofA.places[0]!.digests, baseline.places[0]!.digests);
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
    const own = await registered(t, fresh);
    assert.equal(await installed(own, 'A'), 'unknown');
    assert.equal(await installed(own, 'B', { verify: { baseline } }), 'holds');
    assert.equal(await installed(own, 'A'), 'consistent');
    await spoiled(own, fresh, 'stale', stale);
    assert.equal(await installed(own, 'B', { verify: { baseline } }), 'holds');
    assert.deepEqual(await fresh.answers(), ofB);
  });
});
