import assert from 'node:assert/strict';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { allArrived } from '../../simulation/all-arrived.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { withFleet } from './fleet.ts';

test('a cluster reads a checkpoint from another one through a metas file, and then holds it itself', async () => {
  await withFleet({ instances: { old: [0, 1] } }, async (old) => {
    const model = await old.makeModel(2);
    const registered = await old.cluster.register('one', model);
    await old.cluster.update('one');
    const file = join(old.scratch, 'metas.json');
    await old.cluster.saveMetas('one', file);
    assert.equal(statSync(file).mode & 0o777, 0o600, 'it is for its owner');

    await withFleet({ instances: { new: [0, 1] } }, async ({ cluster, engines }) => {
      const adopted = await cluster.register('one', { metas: file });
      assert.deepEqual([adopted.digest, adopted.bytes], [registered.digest, registered.bytes]);
      const report = await cluster.update('one');
      assert.ok(report.receivedBytes >= registered.bytes);
      assert.ok(allArrived(report));
      await verifyWeights(engines.get('new')!.endpoint, await openCheckpoint(model));
      await old.cluster.stop();
      assert.equal((await cluster.update('one')).receivedBytes, 0, 'the first cluster is no longer needed');
    });
  });
});

test('two clusters, of which the first one goes in the end', async (t) => {
  await withFleet({ instances: { old: [0] } }, async (old) => {
    await withFleet({ instances: { new: [0] } }, async ({ cluster }) => {
      const file = join(old.scratch, 'metas.json');

      await t.test(
        'memory that another cluster was told of is not used again: it gets the checkpoint, or none',
        async () => {
          const models = [await old.makeModel(2), await old.makeModel(3), await old.makeModel(4)];
          const { bytes } = await old.cluster.register('one', models[0]!);
          await old.cluster.saveMetas('one', file);
          await cluster.register('one', { metas: file });
          await old.cluster.register('one', models[1]!);
          assert.equal((await old.cluster.status()).spareBytes, 0);
          // Would go where the first one was, of the same sizes.
          await old.cluster.register('one', models[2]!);
          assert.ok((await old.cluster.status()).spareBytes >= bytes, 'the second one was not exported');
          // Digests would find out; nothing but the memory itself guards an update without them.
          await assert.rejects(cluster.update('one', { verify: false }), { name: 'PeerLostError' });
        },
      );

      await t.test(
        'a metas file whose cluster is gone ends in one line; one that is none names what is wrong',
        async () => {
          await old.cluster.saveMetas('one', file);
          await assert.rejects(old.cluster.saveMetas('two', file), {
            name: 'UsageError',
            message: /no checkpoint two/,
          });
          await old.cluster.stop();
          await cluster.register('one', { metas: file });
          await assert.rejects(cluster.update('one'), {
            name: 'PeerLostError',
            message: /no source is left for slice 0/,
          });
          const [instance] = (await cluster.status()).instances;
          assert.notEqual(instance?.state, 'serving');

          const metas = JSON.parse(readFileSync(file, 'utf8'));
          const refused = async (content: unknown, message: RegExp) => {
            writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content));
            await assert.rejects(cluster.register('two', { metas: file }), {
              name: 'CheckpointError',
              message,
            });
          };
          await refused({ ...metas, version: 2 }, /metas\.json" is not a metas file: version/);
          await refused({ ...metas, sources: [] }, /sources/);
          await refused({ ...metas, manifest: 'AAAA' }, /manifest/);
          await refused('', /is not a metas file/);
          await assert.rejects(cluster.register('two', { metas: `${file}.gone` }), {
            message: /metas\.json\.gone/,
          });
        },
      );
    });
  });
});
