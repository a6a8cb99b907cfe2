/** Agents that a job of Ray starts, on a cluster of two nodes on this machine. */
import { test } from 'node:test';
import { Program } from '../program.ts';
import { startLauncherBench } from './bench.ts';

const python = process.env.WEIGHTCAST_RAY_PYTHON;
const skip = python === undefined && 'WEIGHTCAST_RAY_PYTHON names no Python that has Ray';

test('an engine is updated on the second node, and the end of the job leaves nothing', {
  skip,
}, async (t) => {
  const bench = await startLauncherBench(t, 'node-1');
  const job = new Program(t, [python!, bench.path('ray_job.py')], bench);
  await job.says('agent started');
  await bench.update();
  job.endInput();
  await job.succeeded();
  await bench.isClean();
});

test('agents are on their nodes beside what takes all of them, and end however their actors do', {
  skip,
}, async (t) => {
  const bench = await startLauncherBench(t, 'node-1');
  const words = [python!, bench.path('ray_case.py'), JSON.stringify({ scratch: bench.scratch })];
  await new Program(t, words, bench).succeeded();
});
