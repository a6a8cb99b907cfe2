/** Agents that a job of Ray starts, on a cluster of two nodes on this machine. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Launched, startLauncherBench } from './bench.ts';

const python = process.env.WEIGHTCAST_RAY_PYTHON;
const skip = python === undefined && 'WEIGHTCAST_RAY_PYTHON names no Python that has Ray';

test('an engine is updated on the second node, and the end of the job leaves nothing', {
  skip,
}, async (t) => {
  const bench = await startLauncherBench(t, 'node-1');
  const job = new Launched(t, [python!, bench.path('ray_job.py')], bench.variables);
  await job.says('agent started');
  await bench.update();
  assert.equal(await job.end(), 0, job.output);
  await bench.isClean();
});

test('agents are on their nodes beside what takes all of them, and end however their actors do', {
  skip,
}, async (t) => {
  const bench = await startLauncherBench(t, 'node-1');
  const words = [python!, bench.path('ray_case.py'), JSON.stringify({ scratch: bench.scratch })];
  const run = new Launched(t, words, bench.variables);
  assert.equal(await run.ended, 0, run.output);
});
