import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import { checkpointAt } from '../../simulation/checkpoint.ts';
import { SimulatedHost } from '../../simulation/host.ts';
import type { SimulatedWorld } from '../../simulation/world.ts';
import { bucketBytes, checkpoints, model, withCluster } from './harness.ts';

const [a, b] = checkpoints as [(typeof checkpoints)[number], (typeof checkpoints)[number]];
/** A checkpoint with other segment sizes than the default ones. */
const small = checkpointAt('/models/small', model.slice(0, 4), false);
const withSmall = { checkpoints: [...checkpoints, small] };
const setBytes = a.index.bytes.reduce((sum, bytes) => sum + bytes, 0);

/** Paths of all segments on all hosts. */
function segmentsOf({ hosts }: SimulatedWorld): string[] {
  return hosts.flatMap(({ segments }) => segments).sort();
}

/** Records for every `open` sent from now on whether it contains a plan and a manifest. */
function opensOf(world: SimulatedWorld): { plan: boolean; manifest: boolean }[] {
  const opens: { plan: boolean; manifest: boolean }[] = [];
  world.onSent.push(({ envelope }) => {
    if (envelope.kind !== 'ask') return;
    const { type, plan, manifest } = envelope.body as { type: string; plan?: unknown; manifest?: unknown };
    if (type === 'open') opens.push({ plan: plan !== null, manifest: manifest !== null });
  });
  return opens;
}

test('the segments of a replaced checkpoint are kept and reused by the next one', async () => {
  await withCluster({}, async ({ world, user, succeeds, status, wait }) => {
    await succeeds(user.update('a'));
    const first = segmentsOf(world);
    await succeeds(user.register('a', '/models/b'));
    const both = segmentsOf(world);
    assert.equal(both.length, 2 * first.length);
    assert.equal((await status()).spareBytes, setBytes);
    for (const { path, digest } of [a, b, a, b, b]) {
      await succeeds(user.register('a', path));
      assert.ok(allArrived(await succeeds(user.update('a'))));
      assert.equal((await status()).instances[0]!.version!.digest, digest);
    }
    await wait(100);
    assert.deepEqual(segmentsOf(world), both);
  });
});

test('registering a name repeatedly sends neither plans nor manifests after the first round', async () => {
  await withCluster({}, async ({ world, user, succeeds }) => {
    const opens = opensOf(world);
    const round = async (path: string) => {
      await succeeds(user.register('a', path));
      await succeeds(user.update('a', { bucketBytes }));
    };
    await succeeds(user.update('a', { bucketBytes }));
    await round('/models/b');
    assert.equal(opens.length, 8);
    assert.ok(opens.every(({ plan, manifest }) => plan && manifest));
    opens.length = 0;
    for (let time = 0; time < 5; time += 1) {
      await round('/models/a');
      await round('/models/b');
    }
    assert.equal(opens.length, 40);
    assert.ok(opens.every(({ plan, manifest }) => !plan && !manifest));
  });
});

test('checkpoints under changing names reuse the same memory', async () => {
  await withCluster({}, async ({ world, user, succeeds, fails }) => {
    await succeeds(user.register('step-1', '/models/b'));
    const both = segmentsOf(world);
    await succeeds(user.unregister('a'));
    for (let step = 2; step < 8; step += 1) {
      await succeeds(user.register(`step-${step}`, step % 2 === 0 ? '/models/a' : '/models/b'));
      assert.ok(allArrived(await succeeds(user.update(`step-${step}`))));
      await succeeds(user.unregister(`step-${step - 1}`));
      await fails(user.update(`step-${step - 1}`), 'WEIGHTCAST_USAGE', /no checkpoint step-\d is registered/);
    }
    assert.deepEqual(segmentsOf(world), both);
  });
});

test('spare sets are limited to one per size and to the configured number, and can be released', async () => {
  await withCluster(
    { ...withSmall, spareCheckpoints: 1 },
    async ({ world, user, succeeds, status, wait }) => {
      const one = segmentsOf(world).length;
      for (const name of ['b', 'c', 'd']) await succeeds(user.register(name, '/models/b'));
      assert.equal(segmentsOf(world).length, 4 * one);
      for (const name of ['b', 'c', 'd']) await succeeds(user.unregister(name));
      await wait(100);
      assert.equal(segmentsOf(world).length, 2 * one);

      await succeeds(user.register('small', '/models/small'));
      await succeeds(user.unregister('small'));
      await wait(100);
      const smallBytes = small.index.bytes.reduce((sum, bytes) => sum + bytes, 0);
      assert.equal((await status()).spareBytes, smallBytes, 'the least recently used set was released');

      assert.equal((await succeeds(user.releaseSpare())).bytes, smallBytes);
      assert.equal(segmentsOf(world).length, one);
      assert.equal((await status()).spareBytes, 0);
      assert.equal((await succeeds(user.releaseSpare())).bytes, 0);
      assert.ok(allArrived(await succeeds(user.update('a'))));
    },
  );
});

test('with spareCheckpoints: 0 a replaced checkpoint is removed at once', async () => {
  await withCluster({ spareCheckpoints: 0 }, async ({ world, user, succeeds, wait }) => {
    const before = segmentsOf(world);
    await succeeds(user.register('a', '/models/b'));
    await wait(100);
    assert.equal(segmentsOf(world).length, before.length);
    assert.ok(segmentsOf(world).every((path) => !before.includes(path)));
    assert.ok(allArrived(await succeeds(user.update('a'))));
  });
});

test('a rank that dies while it fills spare memory loses that memory and no registered checkpoint', async () => {
  await withCluster({}, async ({ cluster, world, user, succeeds, fails, until, wait, ready, status }) => {
    const first = segmentsOf(world);
    await succeeds(user.register('a', '/models/b'));
    const spare = first[0]!;
    const whole = () => world.hosts[0]!.digest(spare, 0, 4096);
    const held = whole();
    const registration = user.register('a', '/models/a');
    await until('the spare memory is overwritten', () => whole() !== held);
    cluster.ranks.get(2)!.kill();
    await fails(registration, 'WEIGHTCAST_PEER_LOST', /rank 2 died/);
    await ready();
    await wait(100);
    assert.ok(
      segmentsOf(world).every((path) => !first.includes(path)),
      'partly filled segments are removed',
    );
    assert.deepEqual(
      (await status()).checkpoints.map(({ digest }) => digest),
      [b.digest],
    );
    assert.ok(allArrived(await succeeds(user.update('a'))));
    await succeeds(user.register('a', '/models/a'));
    assert.ok(allArrived(await succeeds(user.update('a'))));
  });
});

test('a registration that fails keeps the spare memory', async () => {
  await withCluster({}, async ({ user, succeeds, fails, status }) => {
    await succeeds(user.register('a', '/models/b'));
    await fails(user.register('a', '/models/nowhere'), 'WEIGHTCAST_CHECKPOINT', /nowhere/);
    assert.equal((await status()).spareBytes, setBytes);
  });
});

test('unregistering fails while the checkpoint is being installed or replaced, and for an unknown name', async () => {
  await withCluster({}, async ({ world, user, succeeds, fails, until }) => {
    await fails(user.unregister('b'), 'WEIGHTCAST_USAGE', /no checkpoint b is registered/);
    const update = user.update('a', { bucketBytes });
    await until('worker links are bound', () => world.links.open === 4);
    await fails(user.unregister('a'), 'WEIGHTCAST_BUSY', /busy updating to a/);
    assert.ok(allArrived(await succeeds(update)));
    const registration = user.register('a', '/models/b');
    await fails(user.unregister('a'), 'WEIGHTCAST_BUSY', /busy registering a/);
    await succeeds(registration);
    await succeeds(user.unregister('a'));
    await fails(user.update('a'), 'WEIGHTCAST_USAGE', /no checkpoint a is registered/);
  });
});

test('a registration that lacks host memory releases spare memory first and fails only if that is not enough', async () => {
  await withCluster(
    { ...withSmall, ranksPerHost: 4 },
    async ({ world, user, succeeds, fails, status, wait }) => {
      const [host] = world.hosts;
      await succeeds(user.register('a', '/models/b'));
      host!.capacity = 2 * setBytes + 1000;
      await succeeds(user.register('small', '/models/small'));
      assert.equal((await status()).spareBytes, 0);
      const before = segmentsOf(world);
      await fails(
        user.register('b', '/models/b'),
        'WEIGHTCAST_OUT_OF_HOST_MEMORY',
        /cannot reserve .* \(\d+ wanted, \d+ free\)/,
      );
      await wait(100);
      assert.deepEqual(segmentsOf(world), before);
      for (const name of ['a', 'small']) assert.ok(allArrived(await succeeds(user.update(name))));
    },
  );
});

test('tensors from memory fill one segment per rank of the host, and later ones reuse the segments', async () => {
  await withCluster({ ranksPerHost: 4 }, async ({ world, user, succeeds, wait }) => {
    const opens = opensOf(world);
    const before = segmentsOf(world);
    const round = async (checkpoint: typeof a) => {
      const { digest } = await succeeds(user.registerTensors('t', checkpoint));
      assert.equal(digest, checkpoint.digest);
      assert.ok(allArrived(await succeeds(user.update('t', { bucketBytes }))));
    };
    await round(a);
    assert.equal(segmentsOf(world).length - before.length, 4);
    await round(b);
    await wait(100);
    const both = segmentsOf(world);
    opens.length = 0;
    for (const checkpoint of [a, b, a, b]) await round(checkpoint);
    assert.deepEqual(segmentsOf(world), both);
    assert.ok(opens.length === 16 && opens.every(({ plan, manifest }) => !plan && !manifest));
  });
});

test('registering tensors from memory needs a rank on the same host', async () => {
  await withCluster({}, async ({ user, fails }) => {
    const elsewhere = new SimulatedHost('elsewhere', true);
    await fails(user.registerTensors('t', a, elsewhere), 'WEIGHTCAST_USAGE', /host elsewhere has no rank/);
  });
});

test('segments of a refused registration are kept and reused by the next one', async () => {
  await withCluster({}, async ({ world, user, succeeds, fails, until, status }) => {
    const written = user.registerTensors('t', a);
    await until('the tensors are written', () =>
      segmentsOf(world).some((path) => !path.includes('checkpoint-1-')),
    );
    const registration = user.register('a', '/models/b');
    await fails(written, 'WEIGHTCAST_BUSY', /busy registering a/);
    await succeeds(registration);
    const { spareBytes } = await status();
    const before = segmentsOf(world);
    assert.equal(spareBytes, 2 * setBytes);
    await succeeds(user.registerTensors('t', b));
    assert.deepEqual(segmentsOf(world), before);
    assert.ok(allArrived(await succeeds(user.update('t'))));
  });
});

test('a process that dies while it writes tensors leaves nothing behind', async () => {
  await withCluster({}, async ({ cluster, world, user, succeeds, until, wait }) => {
    const before = segmentsOf(world);
    const leaving = cluster.user();
    const written = leaving.registerTensors('t', a);
    await until('the process writes', () => segmentsOf(world).length > before.length);
    leaving.process.kill();
    world.network.endSession(world.supervisorNode, leaving.process.node, 'SIGKILL');
    await wait(1_000);
    assert.deepEqual(segmentsOf(world), before);
    written.catch(() => {});
    assert.ok(allArrived(await succeeds(user.update('a'))));
  });
});
