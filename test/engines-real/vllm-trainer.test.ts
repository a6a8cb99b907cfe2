/** weightcast as the weight transfer of both of vLLM's sides, its trainer's and its engine's. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Daemon } from '../../src/daemon/daemon.ts';
import { packageRoot } from '../../src/package-root.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { model, skip, startOnCpu } from './vllm-server.ts';

const trainerMilliseconds = 240_000;

test("a vLLM answers as the model that vLLM's trainer side has sent", { skip }, async (t) => {
  const server = await startOnCpu(t, 'A', ['--weight-transfer-config', '{"backend": "weightcast"}']);
  const scratch = temporaryDirectory(t);
  const daemon = await Daemon.start({
    version: '0.0.0-test',
    socket: join(scratch, 'daemon.sock'),
    roots: [],
    allowEngines: [],
    instances: [],
    cluster: { devices: { kind: 'host', namespace: basename(scratch) } },
  });
  t.after(() => daemon.stop());
  const given = {
    socket: daemon.socket,
    endpoint: server.endpoint,
    models: [model('B'), model('A')],
  };
  const program = join(fileURLToPath(packageRoot), 'test/engines-real/trainer_case.py');
  const trainer = spawn(process.env.WEIGHTCAST_VLLM_PYTHON!, [program, JSON.stringify(given)], {
    env: { ...process.env, PYTHONPATH: process.env.WEIGHTCAST_VLLM_PACKAGES },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: trainerMilliseconds,
    killSignal: 'SIGKILL',
  });
  let output = '';
  for (const stream of [trainer.stdout, trainer.stderr]) stream.on('data', (data) => (output += data));
  const [status] = await once(trainer, 'close');
  assert.equal(status, 0, output);
  const { weight_version } = (await server.get('/weight_info')) as { weight_version: string };
  assert.match(weight_version, /^policy@[0-9a-f]{64}$/);
});
