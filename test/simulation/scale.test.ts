import assert from 'node:assert/strict';
import { test } from 'node:test';
import { simulate } from './harness-process.ts';

test('4,096 ranks in one process take an update, and give everything back', async () => {
  const { code, output } = await simulate('--ranks', 4_096, '--buckets', 2);
  assert.equal(code, 0, output);
  assert.match(output, /4096 ranks, 2 buckets, .* of virtual time, verified/);
});
