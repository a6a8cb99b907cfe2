/** The supervisor's process is killed: its owner starts another one, and the ranks go over to it. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { Cluster } from '../../src/index.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import {
  afterSupervisor,
  directoriesOf,
  eventually,
  isRunning,
  pidsOf,
  replaceSupervisor,
  startBench,
  supervisorPid,
} from './harness.ts';
import { readTensors } from './tensors.ts';

test('ranks live on, and what was registered from files and from memory is there without registering again', async (t) => {
  const bench = await startBench(
    { after: (end) => t.after(end) },
    { ranks: 2, instance: { pause: 'abort' } },
  );
  const { cluster, engine } = bench;
  const model = await bench.makeModel(2);
  await cluster.register('files', model);
  const other = await bench.makeModel(3);
  const tensors = await readTensors(other);
  await cluster.register('memory', { tensors });
  await cluster.update('files');
  const before = await cluster.status();
  // Not needed any more.
  rmSync(model, { recursive: true });

  const after = await replaceSupervisor(cluster);
  assert.deepEqual(pidsOf(after), pidsOf(before));
  assert.deepEqual(after.checkpoints, before.checkpoints);
  assert.deepEqual(after.instances, before.instances);
  await cluster.update('memory');
  await verifyWeights(engine.endpoint, await openCheckpoint(other));
  assert.ok((await cluster.status()).epoch > before.epoch);

  // Again: now they are nobody's children. And one of them dies with it.
  const [first, second] = pidsOf(after);
  process.kill(first!, 'SIGKILL');
  const [restarted, same] = pidsOf(await replaceSupervisor(cluster));
  await cluster.register('memory', { tensors });
  assert.notEqual(restarted, first);
  assert.equal(same, second);
  const directory = directoriesOf(second!).find((path) => /-[0-9a-f]{12}$/.test(path));
  await cluster.unregister('files');
  await cluster.unregister('memory');
  await cluster.releaseSpareMemory();
  assert.deepEqual(
    readdirSync(directory!).filter((name) => /^(checkpoint|mirror)-/.test(name)),
    [],
  );
  const { killed } = await cluster.stop();
  assert.deepEqual(killed, []);
  assert.deepEqual([isRunning(restarted!), isRunning(same!), existsSync(directory!)], [false, false, false]);
});

/** One rank here, and one on a host whose launcher is a program of this machine. Their engines do not matter. */
function startTwo(orphanTimeoutMilliseconds: number): Promise<Cluster> {
  return Cluster.start({
    ranks: 2,
    orphanTimeoutMilliseconds,
    // Another supervisor has to be where ranks of other hosts look for it.
    listen: 'tcp://127.0.0.1:*',
    devices: { kind: 'host', namespace: `test-${randomBytes(6).toString('hex')}`, capacity: 2 ** 24 },
    hosts: { b: { launcher: ['env'] } },
    instances: [
      { name: 'here', endpoint: 'http://127.0.0.1:9', ranks: [0] },
      { name: 'there', endpoint: 'http://127.0.0.1:9', ranks: [1], host: 'b' },
    ],
  });
}

test('a rank that hangs when its supervisor dies is killed and started again; stop ends the others, also beyond a launcher', async (t) => {
  const cluster = await startTwo(60_000);
  t.after(() => cluster.stop());
  const [here, there] = pidsOf(await cluster.status()) as [number, number];
  process.kill(here, 'SIGSTOP');
  await replaceSupervisor(cluster);
  await eventually('another process is rank 0', async () => {
    const [rank] = (await cluster.status()).ranks;
    return rank!.state === 'ready' && rank!.pid !== here;
  });
  assert.equal(isRunning(here), false);
  assert.equal(pidsOf(await cluster.status())[1], there);
  const pids = pidsOf(await cluster.status());
  const directories = pids.flatMap(directoriesOf);
  const killed = (await cluster.stop()).killed.filter((name) => !name.includes(`(process ${here})`));
  assert.deepEqual([killed, pids.filter(isRunning), directories.filter(existsSync)], [[], [], []]);
});

test('ranks live on, with what is registered, when their supervisor fails, also beyond a launcher; callers may try again', async (t) => {
  const orders = join(temporaryDirectory(t), 'orders');
  process.env.WEIGHTCAST_FAULTS = `@${orders}`;
  t.after(() => delete process.env.WEIGHTCAST_FAULTS);
  const cluster = await startTwo(60_000);
  t.after(() => cluster.stop());
  const data = new Uint8Array(8).fill(7);
  await cluster.register('memory', { tensors: { t: { dtype: 'U8', shape: [8], data } } });
  const before = await cluster.status();
  writeFileSync(orders, 'supervisor:status:throw');
  await assert.rejects(cluster.status(), { name: 'PeerLostError', message: /on purpose.*try again/ });
  const after = await afterSupervisor(cluster);
  assert.deepEqual(pidsOf(after), pidsOf(before));
  assert.deepEqual(after.checkpoints, before.checkpoints);
});

test('a supervisor that hangs is killed when it has been silent for too long; another one knows what was registered', async (t) => {
  process.env.WEIGHTCAST_SILENCE_SECONDS = '3';
  t.after(() => delete process.env.WEIGHTCAST_SILENCE_SECONDS);
  const cluster = await startTwo(60_000);
  t.after(() => cluster.stop());
  const data = new Uint8Array(8).fill(7);
  await cluster.register('memory', { tensors: { t: { dtype: 'U8', shape: [8], data } } });
  const before = await cluster.status();
  const supervisor = supervisorPid();
  process.kill(supervisor, 'SIGSTOP');
  await assert.rejects(cluster.status(), { name: 'PeerLostError', message: /try again/ });
  const after = await afterSupervisor(cluster);
  assert.equal(isRunning(supervisor), false);
  assert.deepEqual(after.checkpoints, before.checkpoints);
  // They had lost it too, and are started again.
  await eventually('all ranks are ready', async () =>
    (await cluster.status()).ranks.every(({ state }) => state === 'ready'),
  );
  assert.deepEqual((await cluster.status()).checkpoints, before.checkpoints);
});

test('stop ends ranks whose supervisor has just died, and nothing is left', async (t) => {
  const cluster = await startTwo(60_000);
  t.after(() => cluster.stop());
  const pids = pidsOf(await cluster.status());
  const directories = pids.flatMap(directoriesOf);
  process.kill(supervisorPid(), 'SIGKILL');
  await cluster.stop();
  await eventually('all have ended', () => !pids.some(isRunning));
  assert.deepEqual(directories.filter(existsSync), []);
  await assert.rejects(cluster.status(), { message: /the cluster is stopping/ });
});

test('a rank whose owner is dead too ends by itself, and leaves nothing', async () => {
  const owner = spawn(process.execPath, [fileURLToPath(new URL('fixtures/owner.js', import.meta.url))]);
  const [line] = await once(createInterface(owner.stdout), 'line');
  const { supervisor, rank } = JSON.parse(line);
  const directories = directoriesOf(rank);
  for (const pid of [supervisor, owner.pid!]) process.kill(pid, 'SIGKILL');
  await eventually('the rank has ended', () => !isRunning(rank));
  assert.deepEqual(directories.filter(existsSync), []);
});
