import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import type { LinkKind } from '../../src/engines/engine-client.ts';
import { Cluster, type InstanceOptions, type UpdateReport } from '../../src/index.ts';
import { sharedMemoryName } from '../shared-memory-name.ts';
import type { TestTensor } from './engine-worker.ts';
import { original, skip, skipOriginal } from './exchanges.ts';
import { PythonEngine, type PythonEngineOptions } from './python-engine.ts';
import { assertStoresAreFound } from './stores.ts';
import { oddTensors, tensorOf } from './tensors.ts';

const ranks = [0, 1];

/** An engine with two workers in Python on host devices. */
async function startEngine(
  t: TestContext,
  link: LinkKind,
  kind: Pick<PythonEngineOptions, 'form' | 'draftModel' | 'keepsShares'> = {},
) {
  const namespace = sharedMemoryName();
  const places = ranks.map((rank) => ({ uuid: `HOST-${namespace}-${rank}`, device: 'cpu' }));
  return Object.assign(await PythonEngine.start(t, { link, places, original, ...kind }), { namespace });
}

type Engine = Awaited<ReturnType<typeof startEngine>>;

async function startCluster(
  engine: Engine,
  options: Pick<InstanceOptions, 'engine' | 'link' | 'resetCache' | 'hasDraftModel'>,
) {
  return Cluster.start({
    ranks: ranks.length,
    instances: [{ name: 'blue', endpoint: engine.endpoint, ranks, ...options }],
    devices: { kind: 'host', namespace: engine.namespace, capacity: 2 ** 24 },
  });
}

async function update(cluster: Cluster, name: string, tensors: readonly TestTensor[]): Promise<UpdateReport> {
  const named = Object.fromEntries(tensors.map(({ name: key, ...tensor }) => [key, tensor]));
  await cluster.register(name, { tensors: named });
  return cluster.update(name, { bucketBytes: 2_048 });
}

async function assertHeld(engine: Engine, tensors: readonly TestTensor[]): Promise<void> {
  for (const worker of engine.workers) {
    assert.deepEqual(await worker.compare(tensors), { equal: tensors.length, wrong: [] });
  }
}

test('a cluster updates an engine with our workers in Python, which prove what they received', {
  skip,
}, async (t) => {
  const engine = await startEngine(t, 'weightcast');
  const cluster = await startCluster(engine, {});
  try {
    for (const name of ['first', 'second']) {
      const tensors = oddTensors();
      const report = await update(cluster, name, tensors);
      assert.ok(allArrived(report));
      assert.ok(report.buckets > 4);
      await assertHeld(engine, tensors);
    }
  } finally {
    await cluster.stop();
  }
  assert.deepEqual(
    readdirSync('/dev/shm').filter((name) => name.includes(engine.namespace)),
    [],
  );
});

test('workers in Python are sent what they have read of the first update, and hold all of it bit for bit', {
  skip,
}, async (t) => {
  const engine = await startEngine(t, 'weightcast', { keepsShares: true });
  const cluster = await startCluster(engine, {});
  const weights = () => [
    ...oddTensors(),
    tensorOf('rows', 'BF16', [128, 256]),
    tensorOf('experts', 'F8_E4M3', [16, 64, 64]),
    tensorOf('scales', 'F32', [16, 1]),
  ];
  try {
    for (const [name, fed] of [
      ['first', 'whole'],
      ['second', 'parts'],
      ['third', 'parts'],
    ] as const) {
      const tensors = weights();
      const report = await update(cluster, name, tensors);
      assert.equal(report.instances[0]?.fed, fed, `${report.instances[0]?.whyWhole}`);
      assert.ok(allArrived(report));
      await assertHeld(engine, tensors);
      if (fed === 'parts')
        for (const { uploadedBytes } of report.links) assert.ok(uploadedBytes < report.bytes * 0.6);
    }
  } finally {
    await cluster.stop();
  }
});

test('a cluster updates engines with checkpoint-engine’s own workers, by the routes of vLLM and SGLang', {
  skip: skipOriginal,
}, async (t) => {
  const engine = await startEngine(t, 'checkpoint-engine');
  const link = 'checkpoint-engine';
  const asked = {
    vllm: ['/collective_rpc', 'update_weights_from_ipc', undefined],
    sglang: ['/update_weights_from_ipc', undefined, true],
  };
  for (const kind of ['vllm', 'sglang'] as const) {
    const cluster = await startCluster(engine, { engine: kind, link, resetCache: kind === 'sglang' });
    try {
      const tensors = oddTensors();
      const report = await update(cluster, 'a', tensors);
      assert.equal(report.instances[0]?.proofs.arrived, 'unknown');
      await assertHeld(engine, tensors);
      assert.deepEqual(engine.asked.at(-1), asked[kind]);
    } finally {
      await cluster.stop();
    }
  }
});

for (const link of ['weightcast', 'checkpoint-engine'] as const) {
  const options = { skip: link === 'weightcast' ? skip : skipOriginal };
  test(`a draft model of SGLang takes everything again, update after update: ${link}`, options, async (t) => {
    const engine = await startEngine(t, link, { form: 'sglang', draftModel: true });
    const cluster = await startCluster(engine, { engine: 'sglang', link, hasDraftModel: true });
    try {
      for (const name of ['first', 'second']) {
        const tensors = oddTensors();
        const report = await update(cluster, name, tensors);
        assert.equal(report.instances[0]?.proofs.arrived, link === 'weightcast' ? 'holds' : 'unknown');
        await assertHeld(engine, tensors);
      }
    } finally {
      await cluster.stop();
    }
  });
}

for (const link of ['weightcast', 'checkpoint-engine'] as const) {
  const options = { skip: link === 'weightcast' ? skip : skipOriginal };
  test(
    `an error in one worker ends the update, all processes live, and the next update works: ${link}`,
    options,
    async (t) => {
      const engine = await startEngine(t, link);
      const cluster = await startCluster(engine, { link });
      try {
        const before = await cluster.status();
        engine.fault = { at: 3, does: 'raise' };
        await assert.rejects(update(cluster, 'bad', oddTensors()), /no such parameter in bucket 3/);
        engine.fault = null;
        const tensors = oddTensors();
        await update(cluster, 'good', tensors);
        await assertHeld(engine, tensors);
        const pids = (status: typeof before) => status.ranks.map(({ pid }) => pid);
        assert.deepEqual(pids(await cluster.status()), pids(before));
      } finally {
        await cluster.stop();
      }
    },
  );
}

for (const link of ['weightcast', 'checkpoint-engine'] as const) {
  const options = { skip: link === 'weightcast' ? skip : skipOriginal };
  test(
    `stores through a mapping, which leave no time stamp, are found as a file is uploaded: ${link}`,
    options,
    async (t) => {
      const engine = await startEngine(t, link);
      const cluster = await startCluster(engine, { link });
      try {
        await assertStoresAreFound(t, cluster, link);
      } finally {
        await cluster.stop();
      }
    },
  );
}
