import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import { Cluster } from '../../src/index.ts';
import { probeCuda } from '../../src/native-bridge/probe.ts';
import { skip as skipPython } from '../python/exchanges.ts';
import { PythonEngine } from '../python/python-engine.ts';
import { tensorOf } from '../python/tensors.ts';
import { skip } from './harness.ts';

const needed = 2;
const skipHere: string | false =
  skip || skipPython || (probeCuda().devices.length >= needed ? false : 'there is only one GPU');

/** Some that can be halved, and some that cannot. */
const newTensors = () => [
  ...Array.from({ length: 24 }, (_, layer) => tensorOf(`layers.${layer}`, 'BF16', [512, 1024])),
  tensorOf('odd', 'BF16', [7, 3]),
  tensorOf('scalar', 'F32', []),
  tensorOf('no whole words', 'F8_E4M3', [6, 5]),
  tensorOf('empty', 'BF16', [0, 8]),
];

test('workers on two GPUs that keep halves of tensors hold them, from whole tensors and from parts', {
  skip: skipHere,
}, async (t) => {
  const devices = probeCuda().devices.slice(0, needed);
  const engine = await PythonEngine.start(t, {
    link: 'weightcast',
    places: devices.map(({ uuid }, index) => ({ uuid, device: `cuda:${index}` })),
    keepsShares: true,
  });
  const cluster = await Cluster.start({
    ranks: needed,
    instances: [{ name: 'engine', endpoint: engine.endpoint, ranks: [0, 1] }],
    devices: { kind: 'cuda', indices: [0, 1] },
  });
  t.after(() => cluster.stop());
  for (const fed of ['whole', 'parts', 'parts']) {
    const tensors = newTensors();
    const named = Object.fromEntries(tensors.map(({ name, ...tensor }) => [name, tensor]));
    await cluster.register('halved', { tensors: named });
    const report = await cluster.update('halved', { bucketBytes: 2 ** 22 });
    assert.equal(report.instances[0]!.fed, fed, `${report.instances[0]!.whyWhole}`);
    assert.ok(allArrived(report));
    for (const worker of engine.workers)
      assert.deepEqual(await worker.compare(tensors), { equal: tensors.length, wrong: [] });
    if (fed === 'whole') continue;
    for (const { uploadedBytes, broadcastBytes } of report.links) {
      assert.equal(broadcastBytes, 0);
      assert.ok(uploadedBytes < report.bytes * 0.51, `${uploadedBytes} of ${report.bytes} bytes`);
    }
  }
});
