/** What users of checkpoint-engine run, with weightcast behind it: their own example, and `weightcast.update`. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { encodeHeader } from '../../src/checkpoint/safetensors-writer.ts';
import type { Daemon } from '../../src/daemon/daemon.ts';
import type { LinkKind } from '../../src/engines/engine-client.ts';
import { packageRoot } from '../../src/package-root.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { writeWeightcast } from '../commands.ts';
import { startDaemon } from '../daemon/harness.ts';
import { eventually } from '../eventually.ts';
import type { Program } from '../program.ts';
import { sharedMemoryName } from '../shared-memory-name.ts';
import type { TestTensor } from './engine-worker.ts';
import { original, skip, skipOriginal } from './exchanges.ts';
import { PythonEngine } from './python-engine.ts';
import { missingPython } from './python-interpreter.ts';
import { oddTensors } from './tensors.ts';
import { torchrun } from './torchrun.ts';
import { runUnitTests } from './unit-tests.ts';

/** Of a checkout of checkpoint-engine, or of its source distribution, which scripts/test-python.sh names. */
const example = join(process.env.WEIGHTCAST_CHECKPOINT_ENGINE ?? '', 'examples/update.py');
const skipExample =
  skipOriginal ||
  missingPython('httpx', 'fastapi', 'loguru', 'pydantic', 'checkpoint_engine') ||
  (!existsSync(example) && `there is no ${example}`);

interface Stage {
  readonly scratch: string;
  readonly engine: PythonEngine;
  readonly tensors: readonly TestTensor[];
  readonly model: string;
  readonly daemon: Daemon;
  run(t: TestContext, words: readonly string[], environment?: Record<string, string>): Promise<Program>;
}

/** An engine with two workers, a daemon that does not know it, and a model of two files. */
async function setStage(t: TestContext, link: LinkKind): Promise<Stage> {
  const scratch = temporaryDirectory(t);
  const namespace = sharedMemoryName();
  const places = [0, 1].map((rank) => ({ uuid: `HOST-${namespace}-${rank}`, device: 'cpu' }));
  const engine = await PythonEngine.start(t, { link, places, original });
  const daemon = await daemonOf(t, scratch, namespace);
  const tensors = oddTensors();
  const model = join(scratch, 'model');
  writeModel(model, tensors);
  const run = (t: TestContext, words: readonly string[], environment: Record<string, string> = {}) =>
    torchrun(t, 2, words, { WEIGHTCAST_SOCKET: daemon.socket, ...environment });
  return { scratch, engine, tensors, model, daemon, run };
}

/** On the devices of an engine. */
function daemonOf(t: TestContext, scratch: string, namespace: string): Promise<Daemon> {
  return startDaemon(t, scratch, {
    socket: join(scratch, `${namespace}.sock`),
    cluster: { devices: { kind: 'host', namespace, capacity: 2 ** 24 } },
  });
}

/** Two files, as large models come. */
function writeModel(directory: string, tensors: readonly TestTensor[]): void {
  mkdirSync(directory);
  for (const part of [0, 1]) {
    const own = tensors.filter((_, index) => index % 2 === part);
    const { header, offsets, totalBytes } = encodeHeader(own);
    const file = new Uint8Array(totalBytes);
    file.set(header);
    for (const [index, { data }] of own.entries()) file.set(data, offsets[index]!);
    writeFileSync(join(directory, `model-${part}.safetensors`), file);
  }
}

function writeIndex(directory: string, tensors: readonly TestTensor[]): void {
  const entries = tensors.map(({ name }, index) => [name, `model-${index % 2}.safetensors`]);
  const content = { metadata: {}, weight_map: Object.fromEntries(entries) };
  writeFileSync(join(directory, 'model.safetensors.index.json'), JSON.stringify(content));
}

async function assertHeld({ engine, tensors }: Stage): Promise<void> {
  for (const worker of engine.workers)
    assert.deepEqual(await worker.compare(tensors), { equal: tensors.length, wrong: [] });
}

test('checkpoint-engine’s own example updates an engine, with nothing changed but its import', {
  skip: skipExample,
}, async (t) => {
  const stage = await setStage(t, 'checkpoint-engine');
  const { scratch, engine, model, daemon, tensors } = stage;
  const program = join(scratch, 'update.py');
  const theirs = 'from checkpoint_engine.ps import ParameterServer';
  const text = readFileSync(example, 'utf8');
  assert.ok(text.includes(theirs));
  writeFileSync(program, text.replace(theirs, 'from weightcast.compat import ParameterServer'));
  const common = ['--endpoint', engine.endpoint, '--inference-parallel-size', '2'];

  await t.test('from files, by both of its methods', async (t) => {
    const all = [program, '--checkpoint-path', model, '--update-method', 'all', ...common];
    await (await stage.run(t, all)).succeeded();
    const asked = ['/collective_rpc', 'update_weights_from_ipc', undefined];
    assert.deepEqual(
      engine.asked,
      [asked, asked],
      'each rank asks once, and only the first of them its engine',
    );
    await assertHeld(stage);
  });

  await t.test('from tensors, and by the metas that another run has saved', async (t) => {
    writeIndex(model, tensors);
    const metas = join(scratch, 'metas.json');
    const keeping = ['--save-metas-file', metas, '--sleep-time', '600'];
    const first = await stage.run(t, [program, '--checkpoint-path', model, ...keeping, ...common]);
    await eventually('the first run has updated the engine', () => {
      assert.ok(!first.said.includes('Traceback'), first.said);
      return (
        engine.asked.length === 3 && first.said.includes('Update weights without setting ranks duration')
      );
    });
    await assertHeld(stage);

    const namespace = sharedMemoryName();
    const places = [0, 1].map((rank) => ({ uuid: `HOST-${namespace}-${rank}`, device: 'cpu' }));
    const joiner = await PythonEngine.start(t, { link: 'checkpoint-engine', places, original });
    const other = await daemonOf(t, scratch, namespace);
    const words = [
      program,
      '--load-metas-file',
      metas,
      '--endpoint',
      joiner.endpoint,
      '--inference-parallel-size',
      '2',
    ];
    await (await stage.run(t, words, { WEIGHTCAST_SOCKET: other.socket })).succeeded();
    await assertHeld({ ...stage, engine: joiner });
  });

  await t.test('an error of an engine’s worker ends it, on every rank', async (t) => {
    engine.fault = { at: 1, does: 'raise' };
    const run = await stage.run(t, [program, '--checkpoint-path', model, ...common]);
    const { code, said } = await run.ended;
    assert.notEqual(code, 0);
    assert.match(said, /there is no such parameter in bucket 1/);
    engine.fault = null;
  });
  assert.ok(daemon);
});

test('an engine is asked what its workers speak only where it does not say what they are', { skip }, () =>
  runUnitTests('engine_probe_cases.py'),
);

test('weightcast.update takes the options of that example, and asks the engine what its workers speak', {
  skip: skip || skipOriginal,
}, async (t) => {
  for (const link of ['weightcast', 'checkpoint-engine'] as const) {
    const stage = await setStage(t, link);
    const { engine, model, scratch } = stage;
    const metas = join(scratch, 'metas.json');
    const words = [
      '-m',
      'weightcast.update',
      '--endpoint',
      engine.endpoint,
      '--inference-parallel-size',
      '2',
    ];
    const options = ['--checkpoint-path', model, '--update-method', 'all', '--save-metas-file', metas];
    const environment = { PS_MAX_BUCKET_SIZE_GB: '0.000002', PS_MEM_FRACTION: '0.5' };
    const output = await (await stage.run(t, [...words, ...options], environment)).succeeded();
    assert.match(output, /gather metas: [\d.]+ s\nupdate without ranks: [\d.]+ s\nupdate with ranks: /);
    assert.equal(engine.asked.filter((asked) => (asked as string[])[0] === '/collective_rpc').length, 2);
    assert.equal(statSync(metas).mode & 0o777, 0o600);
    await assertHeld(stage);
  }
});

test('each rank may ask an engine of its own, all or some; what one of them raises all do; a daemon comes and goes with them', {
  skip: skipOriginal,
}, async (t) => {
  const scratch = temporaryDirectory(t);
  const namespace = sharedMemoryName();
  const link = 'checkpoint-engine';
  const start = (rank: number) =>
    PythonEngine.start(t, { link, places: [{ uuid: `HOST-${namespace}-${rank}`, device: 'cpu' }], original });
  const engines = await Promise.all([0, 1].map(start));
  const command = writeWeightcast(scratch, `"$@" --devices host:${namespace}`);
  const socket = join(scratch, 'd.sock');
  const cases = fileURLToPath(new URL('test/python/parameter_server_cases.py', packageRoot));
  const words = [cases, ...engines.map(({ endpoint }) => endpoint)];
  const variables = { WEIGHTCAST_SOCKET: socket, WEIGHTCAST_COMMAND: command };
  await (await torchrun(t, 2, words, variables)).succeeded();
  await eventually('the daemon has ended', () => !existsSync(socket));
  assert.deepEqual(
    engines.map(({ asked }) => asked.length),
    [3, 3],
  );
});
