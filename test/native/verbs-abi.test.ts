import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';

// On a developer's machine the header may be missing; a run that decides what lands installs it.
const mayBeMissing = process.env.CI !== 'true';
const isMissing = !existsSync('/usr/include/infiniband/verbs.h');
const skip = mayBeMissing && isMissing ? 'needs <infiniband/verbs.h>: install libibverbs-dev' : false;

test('what is declared of libibverbs is what its own header declares', { skip }, () => {
  assert(!isMissing, 'there is no <infiniband/verbs.h>: install libibverbs-dev');
  const fixture = fileURLToPath(new URL('test/native/fixtures/verbs-abi.cc', packageRoot));
  const native = fileURLToPath(new URL('native', packageRoot));
  const compiler = process.env.CXX ?? 'c++';
  const { status, stderr } = spawnSync(compiler, ['-std=c++17', '-fsyntax-only', `-I${native}`, fixture], {
    encoding: 'utf8',
  });
  assert.equal(status, 0, stderr);
});
