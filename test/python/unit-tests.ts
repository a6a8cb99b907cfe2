import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import { longPatience } from '../patience.ts';

/** Runs a file of test/python with Python's unittest, and asserts that it has tests and that all pass. */
export function runUnitTests(file: string): void {
  const cases = fileURLToPath(new URL(`test/python/${file}`, packageRoot));
  const packages = fileURLToPath(new URL('python', packageRoot));
  const { status, stderr } = spawnSync(process.env.WEIGHTCAST_PYTHON!, [cases], {
    env: { ...process.env, PYTHONPATH: packages },
    encoding: 'utf8',
    timeout: longPatience,
  });
  assert.equal(status, 0, stderr);
  assert.match(stderr, /^Ran [1-9]\d* tests/m);
}
