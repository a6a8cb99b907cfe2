/** weightcast as the weight transfer of both of vLLM's sides, its trainer's and its engine's. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/package-root.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { startDaemon } from '../daemon/harness.ts';
import { Program } from '../program.ts';
import { sharedEngine } from './shared-engines.ts';
import { model, skip } from './vllm-server.ts';

test("a vLLM answers as the model that vLLM's trainer side has sent", { skip }, async (t) => {
  const { server } = await sharedEngine('weight-transfer engine');
  const { socket } = await startDaemon(t, temporaryDirectory(t));
  const given = { socket, endpoint: server.endpoint, models: [model('B'), model('A')] };
  const program = join(fileURLToPath(packageRoot), 'test/engines-real/trainer_case.py');
  const words = [process.env.WEIGHTCAST_VLLM_PYTHON!, program, JSON.stringify(given)];
  const variables = { PYTHONPATH: process.env.WEIGHTCAST_VLLM_PACKAGES };
  await new Program(t, words, { variables }).succeeded();
  const { weight_version } = (await server.get('/weight_info')) as { weight_version: string };
  assert.match(weight_version, /^policy@[0-9a-f]{64}$/);
});
