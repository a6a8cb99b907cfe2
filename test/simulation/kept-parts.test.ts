import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import { checkpointAt, type TensorShape } from '../../simulation/checkpoint.ts';
import type { RankMessage } from '../../src/actors/protocol/rank.ts';
import type { UpdateReport } from '../../src/actors/protocol/update-values.ts';
import { NativeError } from '../../src/errors.ts';
import { bucketBytes, withCluster } from './harness.ts';

const normBytes = 2 * 1_001;
/** Eight that are divided, eight of which one worker keeps all, and one that cannot be divided. 2 MiB each, but the last. */
const model: readonly TensorShape[] = Array.from({ length: 8 }, (_, layer) => [
  { name: `layers.${layer}.o_proj.weight`, dtype: 'BF16', shape: [2 ** 20] },
  { name: `layers.${layer}.mlp.weight`, dtype: 'BF16', shape: [2 ** 20] },
])
  .flat()
  .concat({ name: 'norm.weight', dtype: 'BF16', shape: [normBytes / 2] });
const wholeBytes = 16 * 2 ** 21 + normBytes;
/** Of two workers. */
const halfBytes = 8 * 2 ** 21 + normBytes;
const checkpoints = ['/models/a', '/models/b'].map((path) => checkpointAt(path, model, false));
const options = { keepsParts: true, checkpoints, ranksPerHost: 4 };

const fedOf = ({ instances }: UpdateReport) => instances.map(({ fed }) => fed);
const uploadedOf = ({ links }: UpdateReport) => links.map(({ uploadedBytes }) => uploadedBytes);

test('from the second update on each rank uploads what its worker keeps, and nothing is broadcast', async () => {
  await withCluster(options, async ({ user, succeeds, world }) => {
    const first = await succeeds(user.update('a', { bucketBytes }));
    assert.deepEqual(fedOf(first), ['whole', 'whole']);
    assert.match(first.instances[0]!.whyWhole!, /rank 0 has not said which parts it keeps/);
    assert.ok(
      first.links.every(({ uploadedBytes, broadcastBytes }) => uploadedBytes + broadcastBytes >= wholeBytes),
    );
    await succeeds(user.register('b', '/models/b'));
    const second = await succeeds(user.update('b', { bucketBytes }));
    assert.deepEqual(fedOf(second), ['parts', 'parts']);
    assert.ok(allArrived(second));
    assert.deepEqual(uploadedOf(second), [halfBytes, halfBytes, halfBytes, halfBytes]);
    assert.ok(second.links.every(({ broadcastBytes }) => broadcastBytes === 0));
    assert.ok(world.engines.every(({ acknowledged }) => acknowledged === `b@${checkpoints[1]!.digest}`));
    const asked = await succeeds(user.update('a', { bucketBytes, parts: false }));
    assert.deepEqual(fedOf(asked), ['whole', 'whole']);
    assert.equal(asked.instances[0]!.whyWhole, null);
  });
});

test('a worker that was restarted refuses parts before anything is loaded, and gets whole tensors in the same update', async () => {
  await withCluster({ ...options, instances: [[0, 1, 2, 3]] }, async ({ user, succeeds, world }) => {
    await succeeds(user.update('a', { bucketBytes }));
    world.engines[0]!.restart();
    // As one that says nothing of its weights.
    world.engines[0]!.said = { held: 'unknown' };
    const refused = await succeeds(user.update('a', { bucketBytes }));
    assert.deepEqual(fedOf(refused), ['whole']);
    assert.match(refused.instances[0]!.whyWhole!, /there is no such record of parts/);
    assert.ok(allArrived(refused));
    assert.deepEqual(fedOf(await succeeds(user.update('a', { bucketBytes }))), ['parts']);
  });
});

test('an instance whose worker was restarted gets whole tensors, while the other goes on with parts', async () => {
  await withCluster(options, async ({ user, succeeds, world }) => {
    await succeeds(user.update('a', { bucketBytes }));
    world.engines[1]!.restart();
    assert.deepEqual(fedOf(await succeeds(user.update('a', { bucketBytes }))), ['parts', 'whole']);
    assert.deepEqual(fedOf(await succeeds(user.update('a', { bucketBytes }))), ['parts', 'parts']);
  });
});

test('after a communicator that could not be opened beside an instance with parts, the next update has another one', async () => {
  const three = {
    ...options,
    worldSize: 6,
    ranksPerHost: 6,
    instances: [
      [0, 1],
      [2, 3],
      [4, 5],
    ],
  };
  await withCluster(three, async ({ user, succeeds, world }) => {
    await succeeds(user.update('a', { bucketBytes, instances: ['engine-0'] }));
    const numbers = new Set<number>();
    const { communicators } = world;
    const join = communicators.join.bind(communicators);
    let fails = true;
    communicators.join = (order) => {
      if (order.ranks.length === 4) numbers.add(order.communicator);
      if (fails) throw new NativeError('the communicator cannot be opened');
      return join(order);
    };
    const failed = await succeeds(user.update('a', { bucketBytes }));
    assert.deepEqual(
      failed.instances.map(({ outcome }) => outcome),
      ['updated', 'unchanged', 'unchanged'],
    );
    assert.deepEqual(fedOf(failed), ['parts', null, null], 'nothing was sent to the others');
    fails = false;
    assert.deepEqual(fedOf(await succeeds(user.update('a', { bucketBytes }))), ['parts', 'whole', 'whole']);
    assert.equal(numbers.size, 2);
  });
});

test('an instance of one worker is asked what it keeps, too, and gets whole tensors', async () => {
  await withCluster({ ...options, instances: [[0], [1, 2, 3]] }, async ({ user, succeeds, world }) => {
    const asked: string[] = [];
    world.onSent.push(({ envelope }) => {
      const body = envelope.kind === 'ask' ? (envelope.body as RankMessage) : null;
      if (body?.type === 'open') asked.push(body.worker.parts);
    });
    const { instances } = await succeeds(user.update('a', { bucketBytes }));
    assert.deepEqual(asked, ['learn', 'learn', 'learn', 'learn']);
    assert.match(instances[0]!.whyWhole!, /has one engine worker/);
  });
});

test('a tensor of which all workers together read only a part breaks the instance, and is named', async () => {
  await withCluster(options, async ({ user, succeeds, spares, world }) => {
    world.engines[0]!.workers[1]!.readsLess = true;
    const message =
      /instance engine-0: no engine worker has read 524288 to 1048575 along dimension 0 of tensor "layers\.\d\.o_proj\.weight", whose shape is \[1048576\]: the checkpoint is of another model/;
    for (let update = 0; update < 2; update += 1)
      await spares(user.update('a', { bucketBytes }), 'engine-0', 'WEIGHTCAST_VERIFICATION', message);
    await succeeds(user.update('a', { bucketBytes, acceptUnproven: true }));
  });
});

test('a part that arrives with other bytes breaks its instance, and no other, until whole tensors come', async () => {
  await withCluster(options, async ({ user, succeeds, spares, world }) => {
    await succeeds(user.update('a', { bucketBytes }));
    world.engines[0]!.workers[1]!.nextLoad = 'corrupt';
    const message = /instance engine-0 does not hold the checkpoint: tensor .* has another digest/;
    const report = await spares(
      user.update('a', { bucketBytes }),
      'engine-0',
      'WEIGHTCAST_VERIFICATION',
      message,
    );
    assert.deepEqual(fedOf(report), ['parts', 'parts']);
    const mended = await succeeds(user.update('a', { bucketBytes }));
    assert.deepEqual(fedOf(mended), ['whole', 'parts']);
    assert.equal(mended.instances[0]!.whyWhole, 'it was broken');
    assert.deepEqual(fedOf(await succeeds(user.update('a', { bucketBytes }))), ['parts', 'parts']);
  });
});

test('what broke an instance is not used again either where it was mended without parts', async () => {
  await withCluster({ ...options, instances: [[0, 1, 2, 3]] }, async ({ user, succeeds, fails, world }) => {
    await succeeds(user.update('a', { bucketBytes }));
    world.engines[0]!.workers[1]!.nextLoad = 'corrupt';
    await fails(user.update('a', { bucketBytes }), 'WEIGHTCAST_VERIFICATION', /another digest/);
    await succeeds(user.update('a', { bucketBytes, parts: false }));
    assert.deepEqual(fedOf(await succeeds(user.update('a', { bucketBytes }))), ['whole']);
    assert.deepEqual(fedOf(await succeeds(user.update('a', { bucketBytes }))), ['parts']);
  });
});

test('a worker that fails on a part is given whole tensors by the next update', async () => {
  await withCluster({ ...options, instances: [[0, 1, 2, 3]] }, async ({ user, succeeds, fails, world }) => {
    await succeeds(user.update('a', { bucketBytes }));
    world.engines[0]!.workers[2]!.nextLoad = 'refuse';
    await fails(user.update('a', { bucketBytes }), 'WEIGHTCAST_WORKER_LINK', /shape mismatch/);
    const report = await succeeds(user.update('a', { bucketBytes }));
    assert.deepEqual(fedOf(report), ['whole']);
    assert.equal(report.instances[0]!.whyWhole, 'it was broken');
  });
});

test('of instances that are divided alike one says all digests of what arrived, and the others one each', async () => {
  await withCluster(options, async ({ user, succeeds, world }) => {
    const asked: number[] = [];
    world.onSent.push(({ envelope }) => {
      const body = envelope.kind === 'ask' ? (envelope.body as RankMessage) : null;
      if (body?.type === 'arrived-digests') asked.push(body.epoch);
    });
    await succeeds(user.update('a', { bucketBytes }));
    assert.deepEqual(asked, [], 'whole tensors are as registered');
    assert.ok(allArrived(await succeeds(user.update('a', { bucketBytes }))));
    assert.equal(asked.length, 2, 'the two ranks of one instance');
    assert.ok(allArrived(await succeeds(user.update('a', { bucketBytes }))));
    assert.equal(asked.length, 2, 'nothing is new');
    await succeeds(user.register('b', '/models/b'));
    assert.ok(allArrived(await succeeds(user.update('b', { bucketBytes }))));
    assert.equal(asked.length, 4);
  });
});

test('a rank that dies before it has said what arrived leaves its instance unproved until the next update', async () => {
  const single = { ...options, instances: [[0, 1, 2, 3]] };
  await withCluster(single, async ({ cluster, user, succeeds, fails, ready, world }) => {
    await succeeds(user.update('a', { bucketBytes }));
    let kills = true;
    world.onSent.push(({ envelope }) => {
      if (!kills || envelope.kind !== 'ask' || (envelope.body as RankMessage).type !== 'arrived-digests')
        return;
      kills = false;
      cluster.ranks.get(1)!.kill();
    });
    await fails(user.update('a', { bucketBytes }), 'WEIGHTCAST_PEER_LOST', /rank-1/);
    assert.ok(!kills);
    await ready();
    assert.ok(allArrived(await succeeds(user.update('a', { bucketBytes }))));
  });
});

test('an instance of which a host lacks bytes gets whole tensors, and is told which', async () => {
  const spanned = { ...options, ranksPerHost: 2, instances: [[0, 1, 2, 3]] };
  await withCluster(spanned, async ({ user, succeeds }) => {
    await succeeds(user.update('a', { bucketBytes }));
    const report = await succeeds(user.update('a', { bucketBytes }));
    assert.deepEqual(fedOf(report), ['whole']);
    assert.match(
      report.instances[0]!.whyWhole!,
      /of which rank \d needs a part, lies on host \S+ and not on/,
    );
  });
});

test('without the memory that a worker takes for whole tensors, the update is by whole tensors and says why', async () => {
  const large = Array.from({ length: 4 }, (_, layer) => {
    return { name: `layers.${layer}.o_proj.weight`, dtype: 'BF16', shape: [2 ** 20] };
  });
  const short = {
    ...options,
    checkpoints: [checkpointAt('/models/a', large, false)],
    // Two slots of a tensor, but not two of its half and the whole.
    deviceCapacity: Math.ceil((2 * 2 ** 21) / 0.9) + 256,
  };
  await withCluster(short, async ({ user, succeeds }) => {
    await succeeds(user.update('a'));
    const report = await succeeds(user.update('a'));
    assert.deepEqual(fedOf(report), ['whole', 'whole']);
    assert.match(report.instances[1]!.whyWhole!, /an update of rank 2 by parts needs .* free device memory/);
  });
});

test('a rank that was started again does not know what its worker keeps', async () => {
  await withCluster(options, async ({ cluster, user, succeeds, until, ready }) => {
    await succeeds(user.update('a', { bucketBytes }));
    const killed = cluster.ranks.get(1)!;
    killed.kill();
    await until('its process is another one', () => (cluster.ranks.get(1) ?? killed) !== killed);
    await ready();
    const report = await succeeds(user.update('a', { bucketBytes }));
    assert.deepEqual(fedOf(report), ['whole', 'parts']);
    assert.match(report.instances[0]!.whyWhole!, /rank 1 has not said/);
  });
});

test('what workers keep is brought to the planner once, and plans are sent once, however many updates follow', async () => {
  await withCluster(options, async ({ user, succeeds, world }) => {
    const asked = { 'kept-parts': 0, 'write-document': 0 };
    world.onSent.push(({ envelope }) => {
      const { type } = (envelope.kind === 'ask' ? envelope.body : {}) as { type?: keyof typeof asked };
      if (type !== undefined && type in asked) asked[type] += 1;
    });
    await succeeds(user.update('a', { bucketBytes }));
    await succeeds(user.update('a', { bucketBytes }));
    // The workers of both engines keep the same two shares.
    assert.equal(asked['kept-parts'], 2);
    const written = asked['write-document'];
    await succeeds(user.register('b', '/models/b'));
    assert.deepEqual(fedOf(await succeeds(user.update('a', { bucketBytes }))), ['parts', 'parts']);
    assert.deepEqual(asked, { 'kept-parts': 2, 'write-document': written });
  });
});
