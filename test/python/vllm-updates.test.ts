import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import { skip } from './exchanges.ts';

for (const [what, file] of [
  ['updates of vLLM’s models: layers, drafts, coverage and what is refused', 'vllm_update_cases.py'],
  ['what a model holds: where its tensors are found, and their digests', 'live_digest_cases.py'],
] as const) {
  test(what, { skip }, () => {
    const cases = fileURLToPath(new URL(`test/python/${file}`, packageRoot));
    const packages = fileURLToPath(new URL('python', packageRoot));
    const { status, stderr } = spawnSync(process.env.WEIGHTCAST_PYTHON!, [cases], {
      env: { ...process.env, PYTHONPATH: packages },
      encoding: 'utf8',
      timeout: 120_000,
    });
    assert.equal(status, 0, stderr);
    assert.match(stderr, /^Ran [1-9]\d* tests/m);
  });
}
