import assert from 'node:assert/strict';
import { after, type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import { allArrived } from '../../simulation/all-arrived.ts';
import type { LinkKind } from '../../src/engines/engine-client.ts';
import type { Cluster } from '../../src/index.ts';
import { CudaDevice } from '../../src/native-bridge/cuda-device.ts';
import { probeCuda } from '../../src/native-bridge/probe.ts';
import { packageRoot } from '../../src/package-root.ts';
import { eventually, isRunning } from '../cluster/harness.ts';
import type { TestTensor } from '../python/engine-worker.ts';
import { PythonEngine, startClusterOnOneGpu } from '../python/python-engine.ts';
import { assertStoresAreFound } from '../python/stores.ts';
import { tensorOf } from '../python/tensors.ts';
import { hostCensus, parentOf } from './host-census.ts';

export interface UpdateSuiteOptions {
  /** What torch calls the GPU. */
  readonly device: string;
  /** Why it cannot run here. */
  readonly skip: string | false;
  /** Path of checkpoint-engine's worker.py. */
  readonly original: string | null;
  /** Why tests of that cannot run here. */
  readonly skipOriginal: string | false;
  /** The library that breaks the GPU context of a process. */
  faultLibrary(t: TestContext): string;
}

/** The dtypes that models come in. */
const dtypes = ['BF16', 'F16', 'F8_E4M3', 'F8_E5M2', 'F32', 'I64', 'U8', 'BOOL'];
const oddShapes = [[7, 3], [], [1, 0, 5], [101], [3, 1, 5, 2], [257, 129]];
const oddTensors = () =>
  dtypes.flatMap((dtype) => oddShapes.map((shape) => tensorOf(`${dtype}.${shape.join('x')}`, dtype, shape)));

/** 12 tensors of 1 MiB: more buckets than there are slots. */
const evenTensors = () =>
  Array.from({ length: 12 }, (_, layer) => tensorOf(`layers.${layer}`, 'BF16', [512, 1024]));
const mebibyte = 2 ** 20;

const hook = fileURLToPath(new URL('test/gpu/fixtures/fault-on-signal.cjs', packageRoot));

/** What the driver takes and gives in the background. */
const toleranceBytes = 4 * mebibyte;

/** Engines serve test after test: all that happens here, their workers have to live through. */
const idle: Record<LinkKind, PythonEngine[]> = { weightcast: [], 'checkpoint-engine': [] };
const ends: (() => unknown)[] = [];
const scope = { after: (end: () => unknown) => void ends.push(end) };
after(async () => {
  for (const end of ends) await end();
});

/** Engines of one worker each, and a cluster with a rank for each of them, all on one GPU. */
class Stage {
  readonly engines: readonly PythonEngine[];
  readonly cluster: Cluster;

  private constructor(engines: readonly PythonEngine[], cluster: Cluster) {
    this.engines = engines;
    this.cluster = cluster;
  }

  static async set(
    t: TestContext,
    { device, original }: UpdateSuiteOptions,
    worldSize: number,
    link: LinkKind = 'weightcast',
  ): Promise<Stage> {
    const { uuid } = probeCuda().devices[0]!;
    const waiting = idle[link];
    while (waiting.length < worldSize) {
      waiting.push(await PythonEngine.start(scope, { link, places: [{ uuid, device }], original }));
    }
    const engines = waiting.slice(0, worldSize);
    for (const engine of engines) engine.fault = null;
    const cluster = await startClusterOnOneGpu(engines, link);
    t.after(() => cluster.stop());
    return new Stage(engines, cluster);
  }

  async register(name: string, tensors: readonly TestTensor[]): Promise<void> {
    const named = Object.fromEntries(tensors.map(({ name: key, ...tensor }) => [key, tensor]));
    await this.cluster.register(name, { tensors: named });
  }

  async assertHeld(tensors: readonly TestTensor[]): Promise<void> {
    for (const { workers } of this.engines) {
      assert.deepEqual(await workers[0]!.compare(tensors), { equal: tensors.length, wrong: [] });
    }
  }

  async pidsOfRanks(): Promise<number[]> {
    return (await this.cluster.status()).ranks.map(({ pid }) => pid!);
  }

  /** Ranks, supervisor and engine workers. */
  async allPids(): Promise<number[]> {
    const ranks = await this.pidsOfRanks();
    return [...ranks, parentOf(ranks[0]!), ...this.engines.map(({ workers }) => workers[0]!.process.pid!)];
  }

  async ready(): Promise<void> {
    await eventually('all ranks are back', async () => {
      return (await this.cluster.status()).ranks.every(({ state }) => state === 'ready');
    });
  }
}

/** A look at the GPU from outside: a device of this process that holds nothing. */
function lookAt(t: TestContext): () => number {
  const device = CudaDevice.open({ index: 0, pinThreads: 1 });
  t.after(() => device.close());
  return () => device.memory().free;
}

/** What whole updates into engine workers in Python have to do, on a GPU or on a driver that is none. */
export function testUpdates(options: UpdateSuiteOptions): void {
  const { skip, skipOriginal } = options;

  for (const worldSize of [1, 2]) {
    for (const [pieces, bucketBytes] of [
      ['one bucket', 64 * mebibyte],
      ['many buckets', 2_048],
    ] as const) {
      test(`tensors of all dtypes and odd shapes arrive bit by bit: ${worldSize} ranks on the GPU, ${pieces}`, {
        skip,
      }, async (t) => {
        const stage = await Stage.set(t, options, worldSize);
        for (const name of ['first', 'second']) {
          const tensors = oddTensors();
          await stage.register(name, tensors);
          const report = await stage.cluster.update(name, { bucketBytes });
          assert.ok(allArrived(report));
          assert.equal(report.buckets > worldSize, pieces === 'many buckets');
          await stage.assertHeld(tensors);
        }
      });
    }
  }

  test("the original's worker, as it is, takes tensors of all dtypes and odd shapes bit by bit", {
    skip: skipOriginal,
  }, async (t) => {
    const stage = await Stage.set(t, options, 1, 'checkpoint-engine');
    for (const bucketBytes of [64 * mebibyte, 2_048]) {
      const tensors = oddTensors();
      await stage.register('odd', tensors);
      const report = await stage.cluster.update('odd', { bucketBytes });
      assert.equal(report.buckets > 1, bucketBytes < mebibyte);
      await stage.assertHeld(tensors);
    }
  });

  for (const link of ['weightcast', 'checkpoint-engine'] as const) {
    test(`an error in a worker ends the update with its traceback, and the process lives: ${link}`, {
      skip: link === 'weightcast' ? skip : skipOriginal,
    }, async (t) => {
      const stage = await Stage.set(t, options, 1, link);
      const tensors = oddTensors();
      await stage.register('odd', tensors);
      const before = await stage.allPids();
      for (const at of [1, 3, 'post-hook'] as const) {
        stage.engines[0]!.fault = { at, does: 'raise' };
        // The original says nothing of what its post-hook raises; the engine does, if it is heard first.
        const words = [`there is no such parameter in bucket ${at}`];
        if (at === 'post-hook' && link === 'checkpoint-engine')
          words.push('closed the connection while running');
        const update = stage.cluster.update('odd', { bucketBytes: 2_048 });
        await assert.rejects(update, new RegExp(words.join('|')));
      }
      stage.engines[0]!.fault = null;
      await stage.cluster.update('odd', { bucketBytes: 2_048 });
      await stage.assertHeld(tensors);
      assert.deepEqual(await stage.allPids(), before);
    });
  }

  for (const link of ['weightcast', 'checkpoint-engine'] as const) {
    test(`stores through a mapping, which leave no time stamp, are found as a file is uploaded: ${link}`, {
      skip: link === 'weightcast' ? skip : skipOriginal,
    }, async (t) => {
      const stage = await Stage.set(t, options, 1, link);
      await assertStoresAreFound(t, stage.cluster, link);
    });
  }

  for (const worldSize of [1, 2]) {
    test(`fifty updates in a row leave as much as there was: ${worldSize} ranks on the GPU`, {
      skip,
    }, async (t) => {
      const freeBytes = lookAt(t);
      const stage = await Stage.set(t, options, worldSize);
      const tensors = evenTensors();
      await stage.register('even', tensors);
      // Few buckets and many, with digests and without. The first ones load kernels and fill pools.
      const updates = async (count: number) => {
        for (let number = 0; number < count; number += 1) {
          const bucketBytes = number % 2 === 0 ? mebibyte : 64 * mebibyte;
          await stage.cluster.update('even', { bucketBytes, verify: number % 4 < 2 });
        }
      };
      // The last is then of the kind that the fiftieth is, whose worker may keep some memory for the next.
      await updates(6);
      const pids = await stage.allPids();
      const census = () => ({ ...hostCensus(pids), free: freeBytes() });
      const before = await settled(census);
      await updates(50);
      assert.deepEqual(await settled(census), before);
      assert.deepEqual(await stage.allPids(), pids, 'all processes live');
      await stage.assertHeld(tensors);
    });
  }

  test('a rank that is killed in the middle takes nothing with it: memory comes back, and the next update works', {
    skip,
  }, async (t) => {
    const freeBytes = lookAt(t);
    const stage = await Stage.set(t, options, 2);
    const tensors = evenTensors();
    await stage.register('even', tensors);
    await stage.cluster.update('even', { bucketBytes: mebibyte });
    const [before, pids] = [freeBytes(), await stage.allPids()];
    const [victim, other, ...others] = pids as [number, number, ...number[]];
    stage.engines[1]!.fault = { at: 3, does: 'wait' };
    const failed = assert.rejects(stage.cluster.update('even', { bucketBytes: mebibyte, atomic: true }), {
      name: 'PeerLostError',
      message: /rank 0 died \(SIGKILL\)/,
    });
    await told(stage.engines[1]!);
    process.kill(victim, 'SIGKILL');
    await failed;
    for (const pid of [other, ...others]) assert(isRunning(pid), 'the others live');
    await stage.ready();
    // The new process has a context, as the old one had.
    await eventually('device memory comes back', () => Math.abs(freeBytes() - before) <= toleranceBytes);
    stage.engines[1]!.fault = null;
    assert.ok(allArrived(await stage.cluster.update('even', { bucketBytes: mebibyte })));
    await stage.assertHeld(tensors);
    assert.deepEqual((await stage.allPids()).slice(1), pids.slice(1));
  });

  test('a rank whose GPU context breaks says so and ends; the next update works', { skip }, async (t) => {
    process.env.WEIGHTCAST_TEST_FAULT = options.faultLibrary(t);
    process.env.WEIGHTCAST_ADDON = hook;
    t.after(() => {
      delete process.env.WEIGHTCAST_TEST_FAULT;
      delete process.env.WEIGHTCAST_ADDON;
    });
    const stage = await Stage.set(t, options, 1);
    const tensors = evenTensors();
    await stage.register('even', tensors);
    await stage.cluster.update('even', { bucketBytes: mebibyte });
    const [broken, ...others] = (await stage.allPids()) as [number, ...number[]];
    stage.engines[0]!.fault = { at: 3, does: 'wait' };
    const failed = assert.rejects(stage.cluster.update('even', { bucketBytes: mebibyte }), {
      // Who is heard first: the rank itself, the news of its end, or its worker's engine.
      name: /^(DeviceLost|PeerLost|Engine|WorkerLink)Error$/,
      message: /CUDA_ERROR_ILLEGAL_ADDRESS/,
    });
    await told(stage.engines[0]!);
    process.kill(broken, 'SIGUSR2');
    await failed;
    await eventually('the process ends', () => !isRunning(broken));
    for (const pid of others) assert(isRunning(pid), 'the others live');
    await stage.ready();
    stage.engines[0]!.fault = null;
    assert.ok(allArrived(await stage.cluster.update('even', { bucketBytes: mebibyte })));
    await stage.assertHeld(tensors);
    assert.notEqual((await stage.pidsOfRanks())[0], broken);
  });
}

/** Longer than idle connections to engines are kept. */
const quietMilliseconds = 6_000;

/** What is held once nothing has changed for a while. */
async function settled<T>(look: () => T): Promise<T> {
  let last = look();
  let since = performance.now();
  const deadline = since + 5 * quietMilliseconds;
  while (performance.now() < Math.min(since + quietMilliseconds, deadline)) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    const now = look();
    if (!isDeepStrictEqual(now, last)) since = performance.now();
    last = now;
  }
  return last;
}

/** Resolves soon after the worker was told to update: it waits for a second in one of the first buckets. */
async function told(engine: PythonEngine): Promise<void> {
  await new Promise<void>((resolve) => {
    engine.onTold = resolve;
  });
  await new Promise((resolve) => setTimeout(resolve, 500));
}
