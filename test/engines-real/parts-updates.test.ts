import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import { Cluster, type UpdateOptions } from '../../src/index.ts';
import { model, skip, startOnCpu } from './vllm-server.ts';

test('a tensor-parallel vLLM answers after updates by parts as after updates by whole tensors', {
  skip,
}, async (t) => {
  const options = ['--tensor-parallel-size', '2', '--worker-extension-cls', 'tensor_parallel.Extension'];
  const server = await startOnCpu(t, 'A', options);
  const ofA = await server.answers();
  const cluster = await Cluster.start({
    ranks: 2,
    instances: [{ name: 'engine', endpoint: server.endpoint, ranks: [0, 1] }],
    devices: { kind: 'host', namespace: `test-${randomBytes(6).toString('hex')}` },
  });
  t.after(() => cluster.stop());
  for (const name of ['A', 'B']) await cluster.register(name, model(name));
  const update = async (name: string, given: UpdateOptions = {}) => {
    // Several buckets.
    const report = await cluster.update(name, { bucketBytes: 2 ** 21, ...given });
    assert.ok(allArrived(report));
    const { fed, whyWhole, proofs } = report.instances[0]!;
    return { fed, whyWhole, installed: proofs.installed, links: report.links };
  };

  const whole = await update('B');
  assert.equal(whole.fed, 'whole');
  const ofB = await server.answers();
  assert.notDeepEqual(ofB, ofA);
  const back = await update('A');
  assert.equal(back.fed, 'parts', back.whyWhole ?? '');
  assert.deepEqual(await server.answers(), ofA);
  const parts = await update('B');
  // Compared with what whole tensors of the same version gave.
  assert.deepEqual([parts.fed, parts.installed], ['parts', 'consistent']);
  assert.deepEqual(await server.answers(), ofB);
  const bytes = ({ links }: typeof whole) =>
    links.map(({ uploadedBytes, broadcastBytes }) => uploadedBytes + broadcastBytes);
  for (const [at, own] of bytes(parts).entries()) assert.ok(own < 0.6 * bytes(whole)[at]!, `${own}`);
});
