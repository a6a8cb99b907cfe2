import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bucketBytes, withCluster } from '../../simulation/harness.ts';

test('a rank that is stopped in the middle of an update frees its device memory at once', async () => {
  await withCluster({ deviceSlowness: 1_000 }, async ({ cluster, world, user, spares, until }) => {
    const device = world.devices[1]!;
    const update = user.update('a', { bucketBytes });
    await until('rank 1 has slots', () => device.used > 0);
    await until('the first bucket is installed', () => world.engines[0]!.isBroken);
    const stoppedAt = world.clock.now();
    void cluster.ranks.get(1)!.stop();
    await until('its device memory is free', () => device.used === 0);
    const milliseconds = world.clock.now() - stoppedAt;
    assert.ok(milliseconds < 2_000, `it took ${milliseconds} ms`);
    await spares(update, 'engine-0', 'WEIGHTCAST_PEER_LOST', /rank 1 died/);
  });
});
