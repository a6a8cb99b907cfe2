/** The supervisor's process is killed: its owner starts another one, and the ranks go over to it. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { after, test } from 'node:test';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { Cluster } from '../../src/index.ts';
import { eventually, isRunning, startBench } from './harness.ts';
import { readTensors } from './tensors.ts';

/** Its engine hangs in the second update. */
const bench = await startBench({ after }, { ranks: 2, instance: { pause: 'abort' } });
const { cluster, engine } = bench;

function parentOf(pid: number): number {
  return Number(/^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]);
}

function directoryOf(pid: number): string {
  const links = readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      return [];
    }
  });
  return dirname(links.find((path) => /^\/dev\/shm\/weightcast-[0-9a-f]{12}\/lock$/.test(path))!);
}

let supervisor = parentOf((await cluster.status()).ranks[0]!.pid!);

/** The supervisor is a child of this process; ranks that have outlived one are not its children. */
function killSupervisor(): void {
  process.kill(supervisor, 'SIGKILL');
}

/** This process's child whose children are ranks, or that has taken ranks over. */
function findSupervisor(): number {
  const own = readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').trim().split(' ').map(Number);
  return own.find((pid) =>
    readFileSync(`/proc/${pid}/environ`, 'utf8').includes('WEIGHTCAST_PROCESS=supervisor'),
  )!;
}

test('its ranks live on, and what was registered from files and from memory is updated to without registering again', async () => {
  const model = await bench.makeModel(2);
  await cluster.register('files', model);
  const tensors = await readTensors(await bench.makeModel(3));
  await cluster.register('memory', { tensors });
  await cluster.update('files');
  // Not needed any more.
  rmSync(model, { recursive: true });
  const before = await cluster.status();

  killSupervisor();
  await eventually('its end is noticed', () => !isRunning(supervisor));
  const after = await cluster.status();
  const pids = (status: typeof after) => status.ranks.map(({ pid }) => pid);
  assert.deepEqual(pids(after), pids(before));
  assert.deepEqual(after.checkpoints, before.checkpoints);
  assert.deepEqual(after.instances, before.instances);
  supervisor = findSupervisor();

  await cluster.update('memory');
  await verifyWeights(engine.endpoint, await openCheckpoint(await bench.makeModel(3)));
  assert.ok((await cluster.status()).epoch > before.epoch);
});
