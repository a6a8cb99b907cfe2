/** A daemon outlives its supervisor's process, and says so to those who ask meanwhile. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { eventually, supervisorPid } from '../cluster/harness.ts';
import { startDaemonBench } from './harness.ts';

/** Its engine hangs in the first update. */
const bench = await startDaemonBench({ after }, {}, { hangAtBucket: 1, rank: 0, once: true });
const { engine } = bench;
const [one, two] = [await bench.makeModel(2), await bench.makeModel(3)];

/** Until its cluster has another supervisor. */
async function restarted(times: number): Promise<void> {
  await eventually('the daemon is ready again', async () => {
    const { daemon } = (await bench.ask('GET', '/v1/status')).body;
    return daemon.restarts === times && daemon.state === 'ready';
  });
}

test('a supervisor that dies in an update fails it, and its engine is not taken for whole', async () => {
  const instance = { ...bench.instance, pause: 'abort' };
  assert.equal((await bench.ask('POST', '/v1/instances', instance)).status, 200);
  assert.equal((await bench.ask('POST', '/v1/checkpoints', { name: 'one', path: one })).status, 200);
  const update = bench.ask('POST', '/v1/updates', { checkpoint: 'one', bucket_bytes: 2 ** 20 });
  const status = async () => (await bench.ask('GET', '/v1/status')).body;
  await eventually('the update touches the engine', async () => {
    const { instances, updates } = await status();
    // A bucket is loaded: an engine that nothing has reached would be whole.
    return instances[0].state === 'updating' && updates[0].progress?.done_bytes > 0;
  });
  assert.equal((await bench.ask('GET', '/healthz')).status, 200);
  assert.equal((await bench.ask('GET', '/readyz')).status, 503);
  const busy = await bench.ask('POST', '/v1/updates', { checkpoint: 'one' });
  assert.deepEqual(
    [busy.status, busy.body.error],
    [
      409,
      {
        code: 'WEIGHTCAST_BUSY',
        message: 'the cluster is busy updating to one; retry when that has ended',
        retry: true,
      },
    ],
  );

  process.kill(supervisorPid(), 'SIGKILL');
  const failed = await update;
  assert.equal(failed.status, 503);
  assert.deepEqual(failed.body.error, {
    code: 'WEIGHTCAST_PEER_LOST',
    message: 'the supervisor process ended (SIGKILL); another one takes its place: try again',
    retry: true,
  });
  assert.equal(failed.headers['retry-after'], '1');
  await restarted(1);
  const { instances, reasons } = await status();
  assert.deepEqual([instances[0].state, instances[0].is_paused], ['broken', true]);
  const problem = "the supervisor's process died while it was being updated";
  assert.equal(instances[0].problem, problem);
  assert.deepEqual(reasons, [`instance a is broken (${problem})`, 'instance a is paused']);

  // What it had is there again; the engine, which it had paused, is updated and resumed.
  const again = await bench.ask('POST', '/v1/updates', { checkpoint: 'one' });
  assert.equal(again.status, 200, again.text);
  await verifyWeights(engine.endpoint, await openCheckpoint(one));
  assert.equal((await bench.ask('GET', '/readyz')).status, 200);
});

test('between updates its death changes nothing', async () => {
  const { shared_directory: shared } = (await bench.ask('GET', '/v1/status')).body.daemon;
  const [file] = (await openCheckpoint(two)).files;
  const published = join(shared, 'published.safetensors');
  writeFileSync(published, readFileSync(file!.path));
  const answer = await bench.ask('POST', '/v1/checkpoints', { name: 'part', path: published });
  assert.equal(answer.status, 200, answer.text);
  const changing = join(bench.scratch, 'changing.safetensors');
  writeFileSync(changing, readFileSync(file!.path));
  assert.equal(
    (await bench.ask('POST', '/v1/checkpoints', { name: 'changing', path: changing })).status,
    200,
  );
  const before = (await bench.ask('GET', '/v1/status')).body;
  // Nothing is loaded again: what was registered is what it was.
  writeFileSync(changing, readFileSync((await openCheckpoint(one)).files[0]!.path));

  process.kill(supervisorPid(), 'SIGKILL');
  await restarted(2);
  const { instances, checkpoints, ready } = (await bench.ask('GET', '/v1/status')).body;
  assert.deepEqual([instances, ready], [before.instances, true]);
  assert.deepEqual(checkpoints, before.checkpoints);
  assert.equal((await bench.ask('POST', '/v1/updates', { checkpoint: 'one' })).status, 200);

  // A file of the daemon's goes with its checkpoint.
  assert.equal((await bench.ask('DELETE', '/v1/checkpoints/part')).status, 200);
  assert.ok(!readdirSync(shared).includes('published.safetensors'));
});
