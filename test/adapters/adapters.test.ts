/** Adapters for trainers: the real packages drive ours through a daemon, and an engine holds what they sent. */
import assert from 'node:assert/strict';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import { startDaemonBench } from '../daemon/harness.ts';
import { runToEnd } from '../program.ts';

const bench = await startDaemonBench({ after });
const model = await bench.makeModel(1);

/** Why a test has no packages to run with, or false. `scripts/test-adapters.sh` installs them. */
function without(name: string): string | false {
  return pythonOf(name) === undefined && `WEIGHTCAST_${name.toUpperCase()}_PYTHON names no Python`;
}

function pythonOf(name: string): string | undefined {
  return process.env[`WEIGHTCAST_${name.toUpperCase()}_PYTHON`];
}

const runCase = (framework: string, program: string) => run(pythonOf(framework)!, program);

async function run(python: string, program: string): Promise<void> {
  const given = {
    socket: bench.daemon.socket,
    endpoint: bench.engine.endpoint,
    model,
    // A root of the daemon's.
    scratch: mkdtempSync(join(bench.scratch, 'case-')),
  };
  const path = join(fileURLToPath(packageRoot), 'test/adapters', program);
  const variables = { PYTHONPATH: process.env.WEIGHTCAST_ADAPTERS_PACKAGES };
  const { code, said } = await runToEnd([python, path, JSON.stringify(given)], variables);
  assert.equal(code, 0, said);
}

test("vLLM's factory builds our trainer, which sends two versions", { skip: without('vllm') }, () =>
  runCase('vllm', 'vllm_trainer_case.py'),
);

test("vLLM's trainer side has several ranks, each with its share", { skip: without('vllm') }, () =>
  runCase('vllm', 'vllm_ranks_case.py'),
);

test("TRL's trainer sends its weights before training and after each step", { skip: without('trl') }, () =>
  runCase('trl', 'trl_case.py'),
);

test("miles' rounds, by its published interface, send two versions", { skip: without('vllm') }, () =>
  runCase('vllm', 'miles_case.py'),
);

test("slime's hook hands over two directories", { skip: without('vllm') }, () =>
  runCase('vllm', 'slime_case.py'),
);

test("verl's manager moves two versions from actors to rollout workers", { skip: without('verl') }, () =>
  runCase('verl', 'verl_case.py'),
);

test('what frameworks import by name needs none of them', { skip: without('vllm') }, () =>
  run('python3', 'late_case.py'),
);
