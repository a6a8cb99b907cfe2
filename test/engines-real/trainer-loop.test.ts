/** The example of a trainer, against a vLLM whose model it trains. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { Daemon } from '../../src/daemon/daemon.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { model, skip, startOnCpu } from './vllm-server.ts';

test('a trainer publishes each step of a model that a vLLM serves, which answers as each of them', {
  skip,
}, async (t) => {
  const server = await startOnCpu(t, 'A', ['--weight-transfer-config', '{"backend": "weightcast"}']);
  const scratch = temporaryDirectory(t);
  const namespace = `test-${randomBytes(6).toString('hex')}`;
  const daemon = await Daemon.start({
    version: '0.0.0-test',
    socket: join(scratch, 'daemon.sock'),
    roots: ['/'],
    allowEngines: [],
    instances: [],
    cluster: { devices: { kind: 'host', namespace, capacity: 2 ** 26 }, threads: 1 },
  });
  t.after(() => daemon.stop());
  const file = join(scratch, 'result.json');
  const words = ['-m', 'weightcast.examples.trainer_loop', '--endpoint', server.endpoint, '--json', file];
  await promisify(execFile)(
    process.env.WEIGHTCAST_VLLM_PYTHON!,
    [...words, '--model', model('A'), '--steps', '5'],
    {
      env: {
        ...process.env,
        PYTHONPATH: process.env.WEIGHTCAST_VLLM_PACKAGES,
        WEIGHTCAST_SOCKET: daemon.socket,
      },
    },
  );
  const { steps } = JSON.parse(readFileSync(file, 'utf8'));
  assert.equal(steps.length, 5);
  t.diagnostic(JSON.stringify(steps.map(({ error }: { error: number }) => error)));
});
