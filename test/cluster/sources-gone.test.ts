import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { HostNetwork, whyNoNamespaces } from '../../scenarios/host-network.ts';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { withFleet } from './fleet.ts';
import { eventually } from './harness.ts';

const skip = whyNoNamespaces() ?? false;
const bytes = 24 * 2 ** 20;

test('when the last source is gone while it is read the update fails with its name, and nothing else does', {
  skip,
}, async (t) => {
  const network = new HostNetwork(1);
  t.after(() => network.close());
  const address = network.connectHere();
  const hosts = {
    new: { launcher: network.launcher(0), fabricAddresses: [network.address(0)] },
  };
  await withFleet({ instances: { old: [0] }, bytes }, async (old) => {
    const model = await old.makeModel(2);
    await old.cluster.register('one', model);
    const metas = join(old.scratch, 'metas.json');
    await old.cluster.saveMetas('one', metas);
    let begun = () => {};
    const received = new Promise<void>((resolve) => {
      begun = resolve;
    });
    const options = {
      instances: { new: [0] },
      bytes,
      hosts,
      listen: `tcp://${address}:*`,
      onProgress: ({ activity, doneBytes }: { activity: string; doneBytes: number }) => {
        if (activity === 'receive' && doneBytes > 0) begun();
      },
    };
    await withFleet(options, async ({ cluster, engines }) => {
      network.limit(0, '100mbit');
      await cluster.register('one', { metas });
      const failed = assert.rejects(cluster.update('one'), {
        name: 'PeerLostError',
        message:
          /no source is left for slice \d+ of the checkpoint \(last error: source 0 of the metas file: /,
      });
      await received;
      await old.cluster.stop();
      await failed;
      const directory = readdirSync('/dev/shm').find((name) => /^weightcast-.*-new$/.test(name))!;
      await eventually('what it had received is gone', () =>
        readdirSync(`/dev/shm/${directory}`).every((name) => !name.startsWith('mirror-')),
      );
      await cluster.register('two', model);
      await cluster.update('two');
      await verifyWeights(engines.get('new')!.endpoint, await openCheckpoint(model));
    });
  });
});
