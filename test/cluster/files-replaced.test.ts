import assert from 'node:assert/strict';
import {
  chmodSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { verifyWeights } from '../../scenarios/verify-weights.ts';
import { allArrived } from '../../simulation/all-arrived.ts';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { Mapping } from '../../src/native-bridge/memory.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';
import { eventually, startBench } from './harness.ts';

const bench = await startBench({ after }, { ranks: 2 });
const { engine, cluster, makeModel } = bench;
const shared = temporaryDirectory({ after }, '/dev/shm');

/** A copy of a model in shared memory, where files are used in place. */
async function liveModel(name: string, seed: number): Promise<string> {
  const directory = join(shared, name);
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory);
  cpSync(await makeModel(seed), directory, { recursive: true });
  return directory;
}

const weightsIn = (directory: string) => readdirSync(directory).filter((name) => /safetensors$/.test(name));

/** As safetensors 0.8 saves: a new file under the old path. */
function replaceFiles(directory: string, model: string): void {
  for (const name of weightsIn(model)) {
    writeFileSync(join(directory, `${name}.tmp`), readFileSync(join(model, name)));
    renameSync(join(directory, `${name}.tmp`), join(directory, name));
  }
}

/** As `cp` does: the same file with another content. */
function overwriteFiles(directory: string, model: string): void {
  for (const name of weightsIn(model)) writeFileSync(join(directory, name), readFileSync(join(model, name)));
}

async function assertHolds(model: string): Promise<void> {
  await verifyWeights(engine.endpoint, await openCheckpoint(model));
}

const pids = async () => (await cluster.status()).ranks.map(({ pid }) => pid);

/** An update that is refused before the engine gets anything: it serves on what it has, from the same ranks. */
async function assertRefused(checkpoint: string, path: string, words: RegExp): Promise<void> {
  const before = await cluster.status();
  await assert.rejects(cluster.update(checkpoint), (error: Error) => {
    assert.equal(error.name, 'CheckpointError', error.message);
    assert.match(error.message, words);
    assert.ok(error.message.includes(path) && error.message.includes(`host ${hostname()}`), error.message);
    return true;
  });
  const { instances, ranks } = await cluster.status();
  assert.deepEqual(instances, before.instances);
  assert.deepEqual(
    ranks.map(({ pid }) => pid),
    before.ranks.map(({ pid }) => pid),
  );
}

test('a file that replaces another under its path is registered, and the other is served as it was', async () => {
  const [a, b] = [await makeModel(21), await makeModel(22)];
  const live = await liveModel('renamed', 21);
  const first = await cluster.register('renamed-1', live);
  await cluster.update('renamed-1');
  replaceFiles(live, b);
  const second = await cluster.register('renamed-2', live);
  assert.notEqual(second.digest, first.digest);
  assert.ok(allArrived(await cluster.update('renamed-2')));
  await assertHolds(b);
  assert.ok(allArrived(await cluster.update('renamed-1')));
  await assertHolds(a);

  // The same name: the old file is released.
  replaceFiles(live, a);
  replaceFiles(live, b);
  assert.equal((await cluster.register('renamed-1', live)).digest, second.digest);
  await cluster.update('renamed-1');
  await assertHolds(b);
  await cluster.unregister('renamed-1');
  await cluster.unregister('renamed-2');
  const maps = async () => (await pids()).map((pid) => readFileSync(`/proc/${pid}/maps`, 'utf8')).join('');
  await eventually('no rank maps a file that was released', async () => !(await maps()).includes(live));
  const descriptors = (await pids()).flatMap((pid) => readdirSync(`/proc/${pid}/fd`).length);
  assert.ok(descriptors.every((open) => open < 200));
});

test('a rank that has not mapped a file before it was replaced says so', async () => {
  const live = await liveModel('restarted', 30);
  await cluster.register('restarted', live);
  replaceFiles(live, await makeModel(31));
  const [first] = await pids();
  process.kill(first!, 'SIGKILL');
  await eventually('the rank is started again', async () => {
    const [rank] = (await cluster.status()).ranks;
    return rank!.state === 'ready' && rank!.pid !== first;
  });
  await assertRefused('restarted', live, /was replaced by another file since it was registered/);
});

test('a file of another size under the same path is registered as it is', async () => {
  const live = await liveModel('grown', 23);
  const [name] = weightsIn(live) as [string];
  await cluster.register('grown', live);
  const { writeQwen3Model } = await import('../../scenarios/qwen3-model.ts');
  const larger = join(shared, 'larger');
  await writeQwen3Model({ directory: larger, bytes: 12 * 2 ** 20, seed: 24 });
  assert.notEqual(statSync(join(larger, name)).size, statSync(join(live, name)).size);
  const expected = await cluster.register('larger', larger);
  rmSync(live, { recursive: true });
  renameSync(larger, live);
  assert.equal((await cluster.register('grown', live)).digest, expected.digest);
});

test('a file that is rewritten in place cannot be installed under its old digest, and can be registered again', async () => {
  const b = await makeModel(26);
  const live = await liveModel('overwritten', 25);
  const first = await cluster.register('overwritten-1', live);
  await cluster.update('overwritten-1');
  overwriteFiles(live, b);
  await assertRefused('overwritten-1', live, /was changed since it was registered/);
  await assertHolds(await makeModel(25));

  const second = await cluster.register('overwritten-2', live);
  assert.notEqual(second.digest, first.digest);
  assert.ok(allArrived(await cluster.update('overwritten-2')));
  await assertHolds(b);
  await assertRefused('overwritten-1', live, /was changed since it was registered/);
  assert.equal((await cluster.register('overwritten-1', live)).digest, second.digest);
  assert.ok(allArrived(await cluster.update('overwritten-1')));
});

test('a truncated file is an error, and no rank dies of it', async () => {
  const live = await liveModel('truncated', 27);
  await cluster.register('truncated', live);
  const before = await pids();
  for (const name of weightsIn(live)) truncateSync(join(live, name), 0);
  await assertRefused('truncated', live, /has 0 bytes now and had \d+ when it was registered/);
  await assert.rejects(cluster.register('truncated', live), { name: 'CheckpointError', message: /is empty/ });
  assert.deepEqual(await pids(), before);
});

test('a rewritten file whose time stamp was set back is found by its content; a new mode alone changes nothing', async () => {
  const live = await liveModel('set-back', 28);
  const file = join(live, weightsIn(live)[0]!);
  const past = new Date(1_700_000_000_000);
  utimesSync(file, past, past);
  await cluster.register('set-back', live);
  chmodSync(file, 0o600);
  assert.ok(allArrived(await cluster.update('set-back')));
  const content = readFileSync(file);
  content.fill(1, content.length - 100);
  writeFileSync(file, content);
  utimesSync(file, past, past);
  await assertRefused('set-back', file, /was changed since it was registered: tensor "[^"]+" differs/);
});

test('stores through a mapping leave no time stamp: verification says which file was written', async () => {
  const live = await liveModel('mapped', 29);
  const file = join(live, weightsIn(live)[0]!);
  const mapping = Mapping.open(file, true);
  const at = mapping.bytes - 100;
  // The first store to a page is noted in the time of modification, the next ones are not.
  mapping.write(at, mapping.read(at, 100));
  await cluster.register('mapped', live);
  mapping.write(at, new Uint8Array(100).fill(1));
  mapping.close();
  await assert.rejects(cluster.update('mapped'), (error: Error) => {
    assert.equal(error.name, 'VerificationError', error.message);
    assert.ok(error.message.includes(`${file} on host ${hostname()}`), error.message);
    return true;
  });
});
