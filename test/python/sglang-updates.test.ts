import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import { skip } from './exchanges.ts';

test('updates of SGLang’s models: layers, what is held, coverage, what is refused, and whose errors come out', {
  skip,
}, () => {
  const cases = fileURLToPath(new URL('test/python/sglang_update_cases.py', packageRoot));
  const packages = fileURLToPath(new URL('python', packageRoot));
  const { status, stderr } = spawnSync(process.env.WEIGHTCAST_PYTHON!, [cases], {
    env: { ...process.env, PYTHONPATH: packages },
    encoding: 'utf8',
    timeout: 120_000,
  });
  assert.equal(status, 0, stderr);
  assert.match(stderr, /^Ran [1-9]\d* tests/m);
});
