/** What a cluster's processes leave when they end, are asked to by a signal, or hang. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Cluster, type ClusterOptions } from '../../src/index.ts';
import { afterSupervisor, directoriesOf, eventually, isRunning, parentOf } from './harness.ts';

/** One rank here, and one on a host whose launcher is a program of this machine. Their engines do not matter. */
async function start(t: TestContext, options: Partial<ClusterOptions> = {}) {
  const cluster = await Cluster.start({
    ranks: 2,
    devices: { kind: 'host', namespace: `test-${randomBytes(6).toString('hex')}`, capacity: 2 ** 24 },
    hosts: { b: { launcher: ['env'] } },
    instances: [
      { name: 'here', endpoint: 'http://127.0.0.1:9', ranks: [0] },
      { name: 'there', endpoint: 'http://127.0.0.1:9', ranks: [1], host: 'b' },
    ],
    ...options,
  });
  t.after(() => cluster.stop());
  const pids = (await cluster.status()).ranks.map(({ pid }) => pid!);
  const own = pids.flatMap(directoriesOf);
  assert.ok(own.length >= 4, own.join());
  const left = () => own.filter((name) => existsSync(name));
  return { cluster, pids, left };
}

test('stop kills ranks that hang, here and beyond a launcher, says which, and leaves nothing', async (t) => {
  const { cluster, pids, left } = await start(t, { stopTimeoutMilliseconds: 6_000 });
  for (const pid of pids) process.kill(pid, 'SIGSTOP');
  const { killed } = await cluster.stop();
  assert.deepEqual(pids.filter(isRunning), []);
  assert.match(
    killed.toSorted().join(),
    /^rank 0 on host \S+ \(process \d+\),rank 1 on host b \(process \d+\)$/,
  );
  assert.deepEqual(left(), []);
});

test('stop kills a supervisor that hangs when it has been silent for too long, and not only at the end of its time', async (t) => {
  // Processes that are started from here on have it, and this one's end of the connection.
  process.env.WEIGHTCAST_SILENCE_SECONDS = '2';
  t.after(() => {
    delete process.env.WEIGHTCAST_SILENCE_SECONDS;
  });
  const { cluster, pids, left } = await start(t, { stopTimeoutMilliseconds: 600_000 });
  const supervisor = parentOf(pids[0]!);
  process.kill(supervisor, 'SIGSTOP');
  const { killed } = await cluster.stop();
  assert.ok(killed.includes(`the supervisor (process ${supervisor})`), killed.join());
  assert.deepEqual(pids.filter(isRunning), []);
  assert.deepEqual(left(), []);
});

test('a signal that asks ranks and the supervisor to end leaves nothing behind', async (t) => {
  const { cluster, pids, left } = await start(t);
  const [rank] = pids as [number];
  process.kill(rank, 'SIGTERM');
  await eventually('another process is the rank', async () => {
    const [now] = (await cluster.status()).ranks;
    return now!.state === 'ready' && now!.pid !== rank;
  });
  const { ranks } = await cluster.status();
  const supervisor = parentOf(ranks[0]!.pid!);
  for (const pid of [supervisor, ...ranks.map(({ pid }) => pid!)]) process.kill(pid, 'SIGTERM');
  await eventually('all have ended', () => ![supervisor, ...ranks.map(({ pid }) => pid!)].some(isRunning));
  // Whoever has sent them did not ask the owner, which starts others.
  const others = (await afterSupervisor(cluster)).ranks.map(({ pid }) => pid!);
  assert.deepEqual(
    others.filter((pid) => ranks.some((rank) => rank.pid === pid)),
    [],
  );
  assert.deepEqual((await cluster.stop()).killed, []);
  assert.deepEqual(left(), []);
});

test('a cluster is not started within a process of a cluster', async (t) => {
  process.env.WEIGHTCAST_PROCESS = 'supervisor';
  t.after(() => {
    delete process.env.WEIGHTCAST_PROCESS;
  });
  await assert.rejects(
    Cluster.start({ ranks: 1, instances: [{ name: 'a', endpoint: 'http://h:1', ranks: [0] }] }),
    {
      name: 'UsageError',
      message: /a process of a cluster cannot start a cluster/,
    },
  );
});

test('a rank that is let go before it has begun ends without an error', () => {
  const entry = fileURLToPath(new URL('../../src/processes/rank-process.js', import.meta.url));
  const { status, stderr } = spawnSync(process.execPath, [entry], { input: '', encoding: 'utf8' });
  assert.deepEqual([status, stderr], [0, '']);
});
