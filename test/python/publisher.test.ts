/** Tensors of torch through the publisher; test/daemon has its tests that need no torch. */
import assert from 'node:assert/strict';
import { basename } from 'node:path';
import { after, test } from 'node:test';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { startDaemon } from '../daemon/harness.ts';
import { runPython } from '../daemon/python.ts';
import { freePorts } from '../free-ports.ts';
import { skip as withoutGpu } from '../gpu/harness.ts';
import { skip } from './exchanges.ts';

const scratch = temporaryDirectory({ after });
const daemon = await startDaemon({ after }, scratch);

async function runCase(name: string, given: object = {}): Promise<void> {
  const argument = { case: name, socket: daemon.socket, ...given };
  const { code, said } = await runPython('test/python/publisher_torch_cases.py', argument);
  assert.equal(code, 0, said);
}

test('every kind of tensor is published bit for bit', { skip }, () => runCase('kinds'));

test('every kind of tensor lies in the memory of a device bit for bit', { skip }, () =>
  runCase('on_device', { device: `HOST-${basename(scratch)}-0` }),
);

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
  await runCase('fsdp', { port: await freePorts(1) });
});
