import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';

const skip = existsSync('/usr/include/infiniband/verbs.h') ? false : 'libibverbs-dev is not installed';

test('what is declared of libibverbs is what its own header declares', { skip }, () => {
  const fixture = fileURLToPath(new URL('test/native/fixtures/verbs-abi.cc', packageRoot));
  const native = fileURLToPath(new URL('native', packageRoot));
  const compiler = process.env.CXX ?? 'c++';
  const { status, stderr } = spawnSync(compiler, ['-std=c++17', '-fsyntax-only', `-I${native}`, fixture], {
    encoding: 'utf8',
  });
  assert.equal(status, 0, stderr);
});
