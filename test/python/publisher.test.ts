/** Tensors of torch through the publisher; test/daemon has its tests that need no torch. */
import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Daemon } from '../../src/daemon/daemon.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { runPython } from '../daemon/python.ts';
import { skip as withoutGpu } from '../gpu/harness.ts';
import { skip } from './exchanges.ts';

const scratch = temporaryDirectory({ after });
const daemon = await Daemon.start({
  version: '0.0.0-test',
  socket: join(scratch, 'daemon.sock'),
  roots: [scratch],
  allowEngines: [],
  instances: [],
  cluster: { devices: { kind: 'host', namespace: 'publisher-torch' }, threads: 1 },
});
after(() => daemon.stop());

async function runCase(name: string, given: object = {}): Promise<void> {
  const argument = { case: name, socket: daemon.socket, ...given };
  const { status, output } = await runPython('test/python/publisher_torch_cases.py', argument);
  assert.equal(status, 0, output);
}

/** One that is free now. */
function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

test('every kind of tensor is published bit for bit', { skip }, () => runCase('kinds'));

test(
  'NaNs where they are not wanted, shards that cut blocks, and what has no memory of its own are refused by name',
  { skip },
  () => runCase('refused'),
);

test('CUDA tensors go piece by piece through two buffers', { skip }, () => runCase('cuda_way', { scratch }));

test('a CUDA tensor may be overwritten as soon as it was put', { skip: skip || withoutGpu }, () =>
  runCase('cuda'),
);

test('the shards of an FSDP2 model make the whole model', { skip }, async () => {
  await runCase('fsdp', { port: await freePort() });
});
