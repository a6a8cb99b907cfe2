/** Agents that processes of torchrun start: two nodes of one process. */
import { test } from 'node:test';
import { freePorts } from '../free-ports.ts';
import { Program } from '../program.ts';
import { type LauncherBench, startLauncherBench } from './bench.ts';

const python = process.env.WEIGHTCAST_TORCH_PYTHON;
const skip = python === undefined && 'WEIGHTCAST_TORCH_PYTHON names no Python that has torch';

async function nodes(t: Parameters<typeof startLauncherBench>[0], bench: LauncherBench, ...words: string[]) {
  const port = await freePorts(1);
  const rendezvous = ['--master-addr', '127.0.0.1', '--master-port', String(port)];
  const torchrun = [python!, '-m', 'torch.distributed.run', '--nnodes', '2', '--nproc-per-node', '1'];
  // Gloo takes the address of the machine's name otherwise, which may be none.
  const variables = { ...bench.variables, GLOO_SOCKET_IFNAME: 'lo' };
  return [0, 1].map(
    (node) =>
      new Program(t, [...torchrun, '--node-rank', String(node), ...rendezvous, ...words], { variables }),
  ) as [Program, Program];
}

test('an engine is updated on the second node, and the end of the job leaves nothing', {
  skip,
}, async (t) => {
  const bench = await startLauncherBench(t, 'node-1');
  const jobs = await nodes(t, bench, bench.path('torchrun_job.py'));
  await Promise.all([jobs[0].says('no agent here'), jobs[1].says('agent of node 1 started')]);
  await bench.update();
  for (const job of jobs) job.endInput();
  await Promise.all(jobs.map((job) => job.succeeded()));
  await bench.isClean();
});

test('the text goes once through the store, in a job with a process group and without', {
  skip,
}, async (t) => {
  const bench = await startLauncherBench(t, 'node-1');
  const words = [bench.path('torchrun_case.py'), JSON.stringify({ scratch: bench.scratch })];
  const jobs = await nodes(t, bench, ...words);
  await Promise.all(jobs.map((job) => job.succeeded()));
});
