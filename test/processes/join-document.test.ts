/** What goes from the owner of a cluster to agents of other hosts. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { inheritedVariables } from '../../src/processes/join-document.ts';

test('ranks elsewhere get what is set for all ranks, and neither secrets nor what is for one process or one test', () => {
  const environment = {
    NCCL_IB_HCA: 'mlx5_0',
    WEIGHTCAST_SILENCE_SECONDS: '20',
    PS_MAX_BUCKET_SIZE_GB: '1',
    WEIGHTCAST_FAULTS: 'rank:start:crash',
    WEIGHTCAST_JOIN: '{}',
    WEIGHTCAST_TOKEN: 'secret',
    'NCCL_A.B': 'a name that no shell can set',
    PATH: '/bin',
  };
  assert.deepEqual(inheritedVariables(environment), {
    NCCL_IB_HCA: 'mlx5_0',
    WEIGHTCAST_SILENCE_SECONDS: '20',
    PS_MAX_BUCKET_SIZE_GB: '1',
  });
});

test('a join text that is damaged on its way is one error that does not quote it', () => {
  const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
  for (const text of [`'{"secretKey":"abcdef"}'`, '\n{"secretKey":"abcdef"}x']) {
    const env = { ...process.env, WEIGHTCAST_JOIN: text };
    const { status, stderr } = spawnSync(process.execPath, [main, 'agent'], { env, encoding: 'utf8' });
    assert.equal(status, 2, stderr);
    assert.match(stderr, /^.*WEIGHTCAST_JOIN is not a join file.*\n$/);
    assert.doesNotMatch(stderr, /abcdef/);
  }
});
