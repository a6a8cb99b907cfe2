/** Agents that processes of torchrun start: two nodes of one process. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { pairOfFreePorts } from '../python/torchrun.ts';
import { Launched, type LauncherBench, startLauncherBench } from './bench.ts';

const python = process.env.WEIGHTCAST_TORCH_PYTHON;
const skip = python === undefined && 'WEIGHTCAST_TORCH_PYTHON names no Python that has torch';

async function nodes(t: Parameters<typeof startLauncherBench>[0], bench: LauncherBench, ...words: string[]) {
  const port = await pairOfFreePorts();
  const rendezvous = ['--master-addr', '127.0.0.1', '--master-port', String(port)];
  const torchrun = [python!, '-m', 'torch.distributed.run', '--nnodes', '2', '--nproc-per-node', '1'];
  // Gloo takes the address of the machine's name otherwise, which may be none.
  const variables = { ...bench.variables, GLOO_SOCKET_IFNAME: 'lo' };
  return [0, 1].map(
    (node) => new Launched(t, [...torchrun, '--node-rank', String(node), ...rendezvous, ...words], variables),
  ) as [Launched, Launched];
}

test('an engine is updated on the second node, and the end of the job leaves nothing', {
  skip,
}, async (t) => {
  const bench = await startLauncherBench(t, 'node-1');
  const [first, second] = await nodes(t, bench, bench.path('torchrun_job.py'));
  await Promise.all([first.says('no agent here'), second.says('agent of node 1 started')]);
  await bench.update();
  assert.deepEqual(await Promise.all([first.end(), second.end()]), [0, 0], first.output + second.output);
  await bench.isClean();
});

test('the text goes once through the store, in a job with a process group and without', {
  skip,
}, async (t) => {
  const bench = await startLauncherBench(t, 'node-1');
  const words = [bench.path('torchrun_case.py'), JSON.stringify({ scratch: bench.scratch })];
  const jobs = await nodes(t, bench, ...words);
  const statuses = await Promise.all(jobs.map((job) => job.ended));
  assert.deepEqual(statuses, [0, 0], jobs[0].output + jobs[1].output);
});
