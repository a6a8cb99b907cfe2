import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, truncateSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { allArrived } from '../../simulation/all-arrived.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { withFleet } from './fleet.ts';

/** Host b has a file system of its own at `local`: what this host sees at `other`. Null where nothing can be mounted. */
function twoViews(t: TestContext) {
  const directory = temporaryDirectory(t);
  const [local, other] = [join(directory, 'local'), join(directory, 'other')];
  mkdirSync(local);
  mkdirSync(other);
  const mount = ['unshare', '-m', 'sh', '-c', `mount --bind ${other} ${local} && exec "$@"`, 'sh'];
  if (spawnSync(mount[0]!, [...mount.slice(1), 'true']).status !== 0) {
    t.skip('no file system can be mounted here');
    return null;
  }
  return { local, other, hosts: { b: { launcher: mount, fabricAddresses: ['127.0.0.1'] } } };
}

for (const kind of ['no file', 'another file'] as const) {
  test(`a host that has ${kind} under the path gets the weights from one that loads them`, async (t) => {
    const views = twoViews(t);
    if (views === null) return;
    const { local, other, hosts } = views;
    await withFleet(
      { instances: { a: [0] }, hosts },
      async ({ cluster, engines, join: joinCluster, makeModel }) => {
        await joinCluster('b', [1]);
        const path = join(local, 'step');
        cpSync(await makeModel(2), path, { recursive: true });
        // Of the same names, shapes and sizes: only the bytes differ.
        if (kind === 'another file') cpSync(await makeModel(3), join(other, 'step'), { recursive: true });
        await cluster.register('step', path);
        const report = await cluster.update('step');
        assert.ok(allArrived(report));
        assert.equal(report.receivedBytes, report.bytes, 'host b has read none of it from its files');
        for (const { endpoint } of engines.values())
          await verifyWeights(endpoint, await openCheckpoint(path));
        await assert.rejects(cluster.register('step', path, { hosts: [hostname(), 'b'] }), {
          name: 'CheckpointError',
          message: kind === 'no file' ? /does not exist on host b$/ : /^host b has another file under \S+$/,
        });
        await assert.rejects(cluster.register('step', path, { hosts: ['c'] }), {
          name: 'UsageError',
          message: 'host c has no rank that could load step',
        });
      },
    );
  });
}

test('hosts that see the same files all load a part', async (t) => {
  const views = twoViews(t);
  if (views === null) return;
  const { hosts } = views;
  await withFleet({ instances: { a: [0] }, hosts }, async ({ cluster, join: joinCluster, makeModel }) => {
    await joinCluster('b', [1]);
    await cluster.register('step', await makeModel(2));
    const { bytes, receivedBytes } = await cluster.update('step');
    assert.ok(
      receivedBytes > 0.9 * bytes && receivedBytes < 1.1 * bytes,
      'each host reads what the other loaded',
    );
    const { bytes: size } = await cluster.register('step', await makeModel(3), { hosts: ['b'] });
    const { received } = await cluster.update('step');
    assert.deepEqual(
      received.map(({ from }) => from),
      [1],
      'only host b has loaded',
    );
    assert.ok(received[0]!.bytes >= size);
    await cluster.register('step', await makeModel(4));
    const timelines = (await cluster.update('step')).timelines.filter(({ h2d }) => h2d.length > 0);
    assert.equal(timelines.length, 2);
  });
});

test('where no rank runs on the host that reads the headers, the file of the host that has them counts', async (t) => {
  const views = twoViews(t);
  if (views === null) return;
  const { local, other, hosts } = views;
  await withFleet({ instances: { b: [0] }, hosts }, async ({ cluster, engines, makeModel }) => {
    const path = join(local, 'step');
    cpSync(await makeModel(2), path, { recursive: true });
    await assert.rejects(cluster.register('step', path), {
      name: 'CheckpointError',
      message: /local\/step\/\S+ does not exist on host b$/,
    });
    cpSync(await makeModel(3), join(other, 'step'), { recursive: true });
    await cluster.register('step', path);
    await cluster.update('step');
    await verifyWeights(engines.get('b')!.endpoint, await openCheckpoint(join(other, 'step')));
    const [file] = readdirSync(join(other, 'step')).filter((name) => name.endsWith('.safetensors'));
    truncateSync(join(other, 'step', file!), 1000);
    await assert.rejects(cluster.register('step', path), {
      name: 'CheckpointError',
      message: new RegExp(`local/step/${file} is truncated.* on host b$`),
    });
  });
});
