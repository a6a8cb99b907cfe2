/** Versions of a trainer on the GPU go to engine workers there without host memory. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { after, type TestContext, test } from 'node:test';
import { encodeHeader } from '../../src/checkpoint/safetensors-writer.ts';
import { Daemon } from '../../src/daemon/daemon.ts';
import { probeCuda } from '../../src/native-bridge/probe.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { eventually } from '../cluster/harness.ts';
import { ask } from '../daemon/ask.ts';
import { PythonWorker, type TestTensor } from '../python/engine-worker.ts';
import { skip as skipPython } from '../python/exchanges.ts';
import { PythonEngine } from '../python/python-engine.ts';
import { tensorOf } from '../python/tensors.ts';
import { skip as withoutGpu } from './harness.ts';

const skip = withoutGpu || skipPython;
const mebibyte = 2 ** 20;
const dtypes = ['BF16', 'F16', 'F8_E4M3', 'F8_E5M2', 'F32', 'I64', 'U8', 'BOOL'];
const oddShapes = [[7, 3], [], [1, 0, 5], [101], [257, 129]];
const oddTensors = () =>
  dtypes.flatMap((dtype) => oddShapes.map((shape) => tensorOf(`${dtype}.${shape.join('x')}`, dtype, shape)));
/** One of them is larger than what an allocation otherwise has. */
const largeTensors = () => [
  tensorOf('large', 'BF16', [150, mebibyte]),
  ...Array.from({ length: 24 }, (_, layer) => tensorOf(`layers.${layer}`, 'BF16', [8, mebibyte])),
];

const gpus = skip ? [] : probeCuda().devices.slice(0, 2);
const scope = { after };
const scratch = temporaryDirectory(scope);
const daemon = skip
  ? null
  : await Daemon.start({
      version: '0.0.0-test',
      socket: join(scratch, 'daemon.sock'),
      roots: [scratch],
      allowEngines: [],
      instances: [],
      cluster: { devices: { kind: 'cuda' }, threads: 4 },
    });
after(() => daemon?.stop());
const engine = skip
  ? null
  : await PythonEngine.start(scope, {
      link: 'weightcast',
      places: gpus.map(({ uuid }, index) => ({ uuid, device: `cuda:${index}` })),
    });
/** One rank for each GPU: what the first has, the second gets by broadcast. */
const instances = [{ name: 'engine', endpoint: engine?.endpoint, ranks: [...gpus.keys()] }];

function startTrainer(t: TestContext, checkpoint: string): Promise<PythonWorker> {
  const given = { socket: daemon!.socket, checkpoint, instances };
  return PythonWorker.start(t, 'trainer.py', [JSON.stringify(given)]);
}

function write(t: TestContext, tensors: readonly TestTensor[]): string {
  const file = join(temporaryDirectory(t), 'weights.safetensors');
  const { header, offsets, totalBytes } = encodeHeader(tensors);
  const bytes = new Uint8Array(totalBytes);
  bytes.set(header);
  for (const [index, { data }] of tensors.entries()) bytes.set(data, offsets[index]);
  writeFileSync(file, bytes);
  return file;
}

async function asked<T>(trainer: PythonWorker, command: object): Promise<T> {
  trainer.command(command);
  return trainer.next();
}

async function assertHeld(tensors: readonly TestTensor[]): Promise<void> {
  for (const worker of engine!.workers)
    assert.deepEqual(await worker.compare(tensors), { equal: tensors.length, wrong: [] });
}

for (const [kind, make] of [
  ['all dtypes and odd shapes', oddTensors],
  ['tensors of many megabytes', largeTensors],
] as const)
  test(`${kind} go from a trainer's GPU to its engine bit by bit, version after version`, {
    skip,
  }, async (t) => {
    const trainer = await startTrainer(t, basename(temporaryDirectory(t)));
    for (const name of ['first', 'second', 'third']) {
      const tensors = make();
      const published = await asked<{ seconds: number; bytes: number }>(trainer, {
        publish: name,
        file: write(t, tensors),
      });
      assert.ok(
        published.bytes <= 2 * mebibyte,
        `${JSON.stringify(published)}: host memory has headers alone`,
      );
      engine!.quiet = true;
      const updated = await asked<{ seconds: number }>(trainer, { update: {} });
      assert.deepEqual(updated, { ...updated, outcomes: ['updated'], arrived: ['holds'] });
      await assertHeld(tensors);
      t.diagnostic(
        `published in ${published.seconds.toFixed(4)} s, updated in ${updated.seconds.toFixed(4)} s`,
      );
    }
  });

test('a trainer that is killed while its version is read: no engine takes other weights for it', {
  skip,
}, async (t) => {
  const checkpoint = basename(temporaryDirectory(t));
  const trainer = await startTrainer(t, checkpoint);
  const tensors = largeTensors();
  const published = await asked<{ error?: string }>(trainer, { publish: 'last', file: write(t, tensors) });
  assert.equal(published.error, undefined);
  engine!.quiet = true;
  engine!.fault = { at: 2, does: 'wait' };
  const told = new Promise<void>((resolve) => {
    engine!.onTold = resolve;
  });
  const update = ask(daemon!.socket, 'POST', '/v1/updates', { checkpoint, bucket_bytes: 16 * mebibyte });
  await told;
  await trainer.kill();
  const { status, body, text } = await update;
  engine!.fault = null;
  t.diagnostic(`${status}: ${text.slice(0, 300)}`);
  if (status === 200) {
    assert.equal(body.report.instances[0].proofs.arrived, 'holds');
    await assertHeld(tensors);
  } else
    assert.match(body.error.message, /is gone, with the trainer|cannot be opened|ended with its trainer/);
  await eventually('the version has ended', async () => {
    return (await ask(daemon!.socket, 'GET', `/v1/checkpoints/${checkpoint}`)).status === 404;
  });

  // Its engine, its ranks and their memory are as good as before.
  const next = await startTrainer(t, `${checkpoint}-next`);
  const others = oddTensors();
  await asked(next, { publish: 'next', file: write(t, others) });
  const updated = await asked<object>(next, { update: {} });
  assert.deepEqual(updated, { ...updated, outcomes: ['updated'], arrived: ['holds'] });
  await assertHeld(others);
});
