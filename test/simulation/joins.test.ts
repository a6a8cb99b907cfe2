import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkpointAt } from '../../src/simulation/checkpoint.ts';
import { bucketBytes, onStage, type Stage, versionsOf } from './harness.ts';

/** Sixty-four tensors of 16 MiB: as many slices, of one piece each. */
const large = Array.from({ length: 64 }, (_, layer) => ({
  name: `layers.${layer}.weight`,
  dtype: 'BF16',
  shape: [8 * 2 ** 20],
}));
const totalBytes = 64 * 16 * 2 ** 20;

/** Three hosts, an instance on each; the first one is there from the beginning. A join takes about a second. */
const hosts = {
  worldSize: 6,
  ranksPerHost: 2,
  instances: [
    [0, 1],
    [2, 3],
    [4, 5],
  ],
  firstInstances: 1,
  reach: 'host',
  linkRate: 1e6,
  deviceSlowness: 1,
  checkpoints: ['/models/a', '/models/b'].map((path) => checkpointAt(path, large, false)),
} as const;

const names = ['engine-0', 'engine-1', 'engine-2'];

/** An instance joins the cluster. */
async function join({ cluster, user, succeeds }: Stage, number: number): Promise<void> {
  await succeeds(user.addInstance(cluster.instance(number)));
}

/** Segments on a host that were received from others. */
function mirrorsOn({ world }: Stage, host: number): string[] {
  return world.hosts[host]!.segments.filter((path) => path.includes('mirror-'));
}

test('an instance on another host receives what it lacks, and keeps a copy', async () => {
  await onStage(hosts, async (stage) => {
    const { user, succeeds, status } = stage;
    await succeeds(user.update('a'));
    await join(stage, 1);
    const report = await succeeds(user.update('a', { instances: ['engine-1'] }));
    assert.equal(report.verified, true);
    assert.equal(report.receivedBytes, totalBytes);
    const again = await succeeds(user.update('a', { instances: ['engine-1'] }));
    assert.equal(again.receivedBytes, 0);
    assert.deepEqual(versionsOf(await status()), ['a', 'a']);
  });
});

test('without a copy nothing of what was received stays', async () => {
  await onStage(hosts, async (stage) => {
    const { user, succeeds, wait } = stage;
    await join(stage, 1);
    await succeeds(user.update('a', { instances: ['engine-1'], keepCopy: false }));
    await wait(1_000);
    assert.deepEqual(mirrorsOn(stage, 1), []);
    const again = await succeeds(user.update('a', { instances: ['engine-1'] }));
    assert.equal(again.receivedBytes, totalBytes);
  });
});
