/** Agents that Slurm starts, with its own daemons for two nodes on this machine. */
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Program, runToEnd } from '../program.ts';
import { startLauncherBench } from './bench.ts';
import { startSlurm, withoutSlurm } from './slurm.ts';

test('srun starts an agent on each node by one command, an engine is updated there, and scancel leaves nothing', {
  skip: withoutSlurm(),
}, async (t) => {
  const bench = await startLauncherBench(t, 'wc2');
  const variables = { ...bench.variables, SLURM_CONF: await startSlurm(t, ['wc1', 'wc2']) };
  const joins = join(bench.scratch, 'joins');
  mkdirSync(joins, { mode: 0o700 });
  const file = join(joins, 'wc2');
  const { code, said } = await runToEnd([bench.command, 'join-file', 'wc2', '--output', file], variables);
  assert.equal(code, 0, said);

  const words = ['--ntasks-per-node=1', bench.command, 'agent', '--join-dir', joins];
  const missing = await runToEnd(['srun', '--nodelist=wc1', '--nodes=1', ...words], variables);
  assert.equal(missing.code, 2, missing.said);
  assert.match(missing.said, /UsageError: .*joins.* has no join file of this host, .*wc1/);

  const agents = new Program(t, ['srun', '--nodelist=wc2', '--nodes=1', ...words], { variables });
  await bench.update();
  // As Slurm does at the end of a job: SIGTERM, and SIGKILL after KillWait.
  agents.kill('SIGTERM');
  await agents.ended;
  await bench.isClean();
});
