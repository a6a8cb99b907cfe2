/** The example of a trainer, against a vLLM whose model it trains. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { startDaemon } from '../daemon/harness.ts';
import { Program } from '../program.ts';
import { sharedEngine } from './shared-engines.ts';
import { model, skip } from './vllm-server.ts';

test('a trainer publishes each step of a model that a vLLM serves, which answers as each of them', {
  skip,
}, async (t) => {
  const { server } = await sharedEngine('weight-transfer engine');
  const scratch = temporaryDirectory(t);
  const devices = { kind: 'host', namespace: basename(scratch), capacity: 2 ** 26 } as const;
  const daemon = await startDaemon(t, scratch, { cluster: { devices } });
  const file = join(scratch, 'result.json');
  const words = ['-m', 'weightcast.examples.trainer_loop', '--endpoint', server.endpoint, '--json', file];
  const example = [process.env.WEIGHTCAST_VLLM_PYTHON!, ...words, '--model', model('A'), '--steps', '5'];
  const variables = {
    PYTHONPATH: process.env.WEIGHTCAST_VLLM_PACKAGES,
    WEIGHTCAST_SOCKET: daemon.socket,
  };
  await new Program(t, example, { variables }).succeeded();
  const { steps } = JSON.parse(readFileSync(file, 'utf8'));
  assert.equal(steps.length, 5);
  t.diagnostic(JSON.stringify(steps.map(({ error }: { error: number }) => error)));
});
