/** Checkpoints of a daemon without a cluster, and files of its clients. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { Cluster } from '../../src/cluster/cluster.ts';
import { FileRoots } from '../../src/daemon/access.ts';
import type { ClusterKeeper } from '../../src/daemon/cluster-keeper.ts';
import { EventHub } from '../../src/daemon/event-hub.ts';
import { KeptCheckpoints } from '../../src/daemon/kept-checkpoints.ts';
import { SharedFiles } from '../../src/daemon/shared-files.ts';
import { f32, temporaryDirectory, writeSafetensors } from '../checkpoint/safetensors-files.ts';
import { eventually } from '../eventually.ts';

/** Checkpoints of two files, A and B, with a cluster that notes what it loads. `onLoad` comes before a load has ended. */
async function makeKept(t: TestContext, onLoad: (source: unknown) => Promise<unknown> = async () => {}) {
  const scratch = temporaryDirectory(t);
  const [a, b] = ['a', 'b'].map((name) => join(scratch, `${name}.safetensors`)) as [string, string];
  for (const path of [a, b]) writeSafetensors(path, [f32('w', 4)]);
  const said: unknown[] = [];
  const cluster = {
    register: async (checkpoint: string, source: unknown) => {
      said.push(source);
      await onLoad(source);
      return { checkpoint, tensors: 1, bytes: 16, digest: `of ${source}` };
    },
    unregister: async (checkpoint: string) => void said.push(`without ${checkpoint}`),
    released: async () => true,
  } as unknown as Cluster;
  const keeper = { use: (work: (cluster: Cluster) => unknown) => work(cluster) } as ClusterKeeper;
  const shared = new SharedFiles();
  t.after(() => shared.close());
  const kept = new KeptCheckpoints(
    keeper,
    await FileRoots.open([scratch, shared.path]),
    shared,
    new EventHub(),
  );
  return { a, b, said, cluster, kept, shared };
}

test('what is registered while the first instance joins is loaded', async (t) => {
  const { a, b, said, kept } = await makeKept(t);
  await kept.register({ name: 'policy', source: a }, () => false);
  let asked = 0;
  const view = await kept.register({ name: 'policy', source: b }, () => asked++ > 0);
  assert.equal(view.state, 'loaded');
  assert.deepEqual(said, [b]);
});

test('a checkpoint that is replaced while ranks load it is not left in them', async (t) => {
  const { a, b, said, cluster, kept } = await makeKept(t, async (source) => {
    if (source === a) await kept.register({ name: 'policy', source: b }, () => false);
  });
  await kept.register({ name: 'policy', source: a }, () => false);
  await kept.loadWaiting(cluster);
  assert.deepEqual(said, [a, b]);
  assert.deepEqual(
    kept.views().map(({ state, digest }) => [state, digest]),
    [['loaded', `of ${b}`]],
  );
});

test('a checkpoint that is removed while ranks load it is not left in them', async (t) => {
  const { a, said, cluster, kept } = await makeKept(t, () => kept.unregister('policy'));
  await kept.register({ name: 'policy', source: a }, () => false);
  await kept.loadWaiting(cluster);
  assert.deepEqual(said, [a, 'without policy']);
});

test('what a living process has written and not registered yet is not swept', async (t) => {
  const shared = new SharedFiles();
  t.after(() => shared.close());
  const gone = spawnSync('true').pid;
  for (const name of [`${process.pid}-01.safetensors`, `${gone}-02.safetensors`, 'other'])
    writeFileSync(join(shared.path, name), 'x');
  await shared.sweep(Date.now() + 3_600_000);
  assert.ok(existsSync(join(shared.path, `${process.pid}-01.safetensors`)));
  assert.deepEqual(
    readdirSync(shared.path).filter((name) => name === 'other' || name.startsWith(`${gone}-`)),
    [],
  );
});

test('of two publishers that register one name at once one is refused, and keeps its files', async (t) => {
  let go = () => {};
  const waiting = new Promise<void>((resolve) => {
    go = resolve;
  });
  const { kept, shared } = await makeKept(t, () => waiting);
  const files = ['one', 'other'].map((name) => {
    const path = join(shared.path, `session-${shared.openSession()}-${name}.safetensors`);
    writeSafetensors(path, [f32('w', 4)]);
    return path;
  });
  const ended = Promise.allSettled(
    files.map((path) => kept.register({ name: 'policy', source: [path] }, () => true)),
  );
  await new Promise(setImmediate);
  go();
  const results = await ended;
  const [refused] = results.flatMap((one) => (one.status === 'rejected' ? [one.reason] : []));
  assert.equal(refused?.code, 'WEIGHTCAST_USAGE', String(refused));
  assert.match(refused.message, /^checkpoint policy is published by another trainer/);
  const first = results.findIndex(({ status }) => status === 'fulfilled');
  assert.deepEqual(kept.view('policy').files, [files[first]]);
  assert.ok(files.every((path) => existsSync(path)));
});

test('the version before one that ends with its trainer while it is loaded gives its memory back', async (t) => {
  let last = '';
  let session = '';
  const { kept, shared } = await makeKept(t, async (source) => {
    if ((source as string[])[0] === last) await shared.closeSession(session);
  });
  session = shared.openSession();
  const [before, resident] = ['1', '2.device'].map((name) => join(shared.path, `session-${session}-${name}`));
  last = resident!;
  for (const path of [before!, last]) writeSafetensors(path, [f32('w', 4)]);
  await kept.register({ name: 'policy', source: [before!] }, () => true);
  await assert.rejects(
    kept.register({ name: 'policy', source: [last] }, () => true),
    /ended with its trainer/,
  );
  const isLeft = () => readdirSync(shared.path).some((name) => name.startsWith('session-'));
  await eventually('its memory is given back', () => !isLeft());
});
