import { test } from 'node:test';
import { skip } from './exchanges.ts';
import { runUnitTests } from './unit-tests.ts';

for (const [what, file] of [
  ['updates of vLLM’s models: layers, drafts, coverage and what is refused', 'vllm_update_cases.py'],
  ['what workers answer to calls and say before a pause, by both faces', 'vllm_worker_cases.py'],
  ['what a worker keeps of tensors, and updates by parts', 'kept_parts_cases.py'],
  ['buckets that a model takes in one call', 'one_call_cases.py'],
  ['what a model holds: where its tensors are found, and their digests', 'live_digest_cases.py'],
] as const) {
  test(what, { skip }, () => runUnitTests(file));
}
