import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { patience } from '../patience.ts';
import { missingPython } from './python-interpreter.ts';

const skip = missingPython('torch', 'zmq', 'msgpack');

/** Do what SGLang does: spawn a scheduler, which imports checkpoint-engine's function when it is asked to update. */
const launchServer = `
import multiprocessing, sys
from sglang.scheduler import run_scheduler

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    queue = multiprocessing.Queue()
    child = multiprocessing.Process(target=run_scheduler, args=(queue,))
    child.start()
    print(sys.argv[1:], queue.get(timeout=100))
    child.join()
`;
const scheduler = `
import importlib.util

def run_scheduler(queue):
    spec = importlib.util.find_spec("checkpoint_engine")
    from checkpoint_engine.worker import update_weights_from_ipc
    queue.put([spec is not None, update_weights_from_ipc.__module__])
`;

import { packageRoot } from '../../src/package-root.ts';

test('python -m weightcast.sglang starts SGLang with our function in the processes that it spawns', {
  skip,
}, (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'weightcast-test-'));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  mkdirSync(join(directory, 'sglang'));
  writeFileSync(join(directory, 'sglang/__init__.py'), '');
  writeFileSync(join(directory, 'sglang/launch_server.py'), launchServer);
  writeFileSync(join(directory, 'sglang/scheduler.py'), scheduler);
  const python = fileURLToPath(new URL('python', packageRoot));
  const { stdout, stderr, status } = spawnSync(
    process.env.WEIGHTCAST_PYTHON!,
    ['-m', 'weightcast.sglang', '--model-path', 'qwen'],
    {
      env: { ...process.env, PYTHONPATH: `${directory}:${python}` },
      encoding: 'utf8',
      timeout: patience,
    },
  );
  assert.equal(status, 0, stderr);
  assert.equal(stdout, "['--model-path', 'qwen'] [True, 'weightcast.worker']\n");
});
