/** Stop in the middle of work, with a process that hangs: all ends within its time, and what was killed is named. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import { after, type TestContext, test } from 'node:test';
import { processesWith } from '../../scenarios/faults/census.ts';
import { FaultOrders } from '../../scenarios/faults/orders.ts';
import { writeQwen3Model } from '../../scenarios/qwen3-model.ts';
import { startReferenceEngine } from '../../scenarios/reference-engine/index.ts';
import { Cluster, type ClusterOptions, type WeightcastError } from '../../src/index.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { directoriesOf, eventually, isRunning, parentOf, supervisorPid } from './harness.ts';

const stopTimeoutMilliseconds = 6_000;
/** A machine that does other things may take some times as long. */
const mostMilliseconds = 10 * stopTimeoutMilliseconds;

const scratch = temporaryDirectory({ after });
const model = join(scratch, 'model');
await writeQwen3Model({ directory: model, bytes: 8 * 2 ** 20, seed: 1 });
const namespace = basename(scratch);
const engine = await startReferenceEngine({
  name: 'test',
  model,
  ranks: 1,
  deviceNamespace: namespace,
  deviceCapacity: 2 ** 27,
});
after(() => engine.stop());
// A test that fails leaves nothing behind.
after(() => {
  for (const pid of processesWith(mark)) process.kill(pid, 'SIGKILL');
});

/** Whose environment says so are processes of the cluster. */
const orders = new FaultOrders(join(scratch, 'orders'));
const mark = `WEIGHTCAST_FAULTS=${orders.environment.WEIGHTCAST_FAULTS}`;
Object.assign(process.env, orders.environment);

/** A cluster in the middle of `work`, which one of its ranks has stopped itself in. */
async function amid(
  t: TestContext,
  order: string,
  work: (cluster: Cluster) => Promise<unknown>,
  host: Partial<ClusterOptions['instances'][number]> = {},
) {
  const cluster = await Cluster.start({
    ranks: 1,
    instances: [{ name: 'engine', endpoint: engine.endpoint, ranks: [0], ...host }],
    devices: { kind: 'host', namespace },
    hosts: { b: { launcher: ['env'] } },
    // What never ends is not waited for.
    onProgress: () => new Promise(() => {}),
    stopTimeoutMilliseconds,
  });
  t.after(() => cluster.stop());
  const { ranks } = await cluster.status();
  // That of the device is the engine's, too.
  const directories = directoriesOf(ranks[0]!.pid!).filter((path) => !path.includes('weightcast-device-'));
  if (!order.includes(':load:')) await cluster.register('one', model);
  orders.give(order);
  const outcome = work(cluster).then(
    () => null,
    (error: WeightcastError) => error.code,
  );
  let hung = 0;
  await eventually('a rank hangs', () => {
    hung = orders.fired()?.pid ?? 0;
    return hung !== 0;
  });
  return { cluster, outcome, hung, directories };
}

/** Stops it, and resolves with the names of what had to be killed. `answer`: to what was under way. */
async function stopped(
  { cluster, outcome, directories }: Awaited<ReturnType<typeof amid>>,
  answer = 'WEIGHTCAST_ABORTED',
) {
  const begunAt = performance.now();
  const { killed } = await cluster.stop();
  assert.ok(performance.now() - begunAt < mostMilliseconds, `${performance.now() - begunAt} ms`);
  assert.equal(await outcome, answer);
  assert.deepEqual(processesWith(mark), []);
  assert.deepEqual(directories.filter(existsSync), []);
  return killed;
}

const update = (cluster: Cluster) => cluster.update('one', { bucketBytes: 2 ** 20 });

test('a rank that hangs in an update', async (t) => {
  const work = await amid(t, 'rank-0:link-load:stop@2', update);
  assert.match((await stopped(work)).join(), new RegExp(`^rank 0 on host \\S+ \\(process ${work.hung}\\)$`));
});

test('a rank that hangs in a registration', async (t) => {
  const work = await amid(t, 'rank-0:load:stop', (cluster) => cluster.register('one', model));
  assert.match((await stopped(work)).join(), new RegExp(`^rank 0 on host \\S+ \\(process ${work.hung}\\)$`));
});

test('a rank that hangs at its start, when its instance is added', async (t) => {
  const other = { name: 'other', endpoint: engine.endpoint, ranks: [1] };
  const work = await amid(t, 'rank-1:start:stop', (cluster) => cluster.addInstance(other));
  assert.match((await stopped(work)).join(), new RegExp(`^rank 1 on host \\S+ \\(process ${work.hung}\\)$`));
});

test('a rank and its agent hang in an update', async (t) => {
  const work = await amid(t, 'rank-0:link-load:stop@2', update, { host: 'b' });
  const agent = parentOf(work.hung);
  process.kill(agent, 'SIGSTOP');
  const killed = await stopped(work);
  assert.ok(killed.includes('the agent of host b'), killed.join());
  assert.ok(!isRunning(work.hung) && !isRunning(agent));
});

test('a rank and its supervisor hang in an update', async (t) => {
  const work = await amid(t, 'rank-0:link-load:stop@2', update);
  const supervisor = supervisorPid();
  process.kill(supervisor, 'SIGSTOP');
  const killed = await stopped(work, 'WEIGHTCAST_PEER_LOST');
  assert.ok(killed.includes(`the supervisor (process ${supervisor})`), killed.join());
  assert.ok(
    killed.some((name) => name.includes(`process ${work.hung}`)),
    killed.join(),
  );
});
