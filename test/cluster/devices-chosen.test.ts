/** Which device each rank opens, on a CUDA driver with eight that is none. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Cluster } from '../../src/index.ts';
import { buildFakeCuda } from '../native/fake-cuda.ts';

const endpoint = 'http://127.0.0.1:1';
const uuid = (index: number) =>
  `${index === 1 ? 'MIG-11' : 'GPU-a0'}a1a2a3-a4a5-a6a7-a8a9-aaabacadae0${index}`;

test('each rank opens the device of its own host that its instance has chosen, by index or UUID', async (t) => {
  // Only processes that are started from here see the driver.
  Object.assign(process.env, { LD_LIBRARY_PATH: buildFakeCuda(), FAKE_CUDA_DEVICES: '8' });
  const cluster = await Cluster.start({
    ranks: 4,
    instances: [
      {
        name: 'a',
        endpoint,
        workers: [{ devices: [7, uuid(5)] }, { host: 'b', devices: [0, uuid(1)] }],
      },
    ],
    hosts: { b: { launcher: [] } },
  });
  t.after(() => cluster.stop());
  const opened = async () =>
    (await cluster.status()).ranks.map(({ host, deviceUuid }) => [host === 'b' ? 'b' : 'here', deviceUuid]);
  const first = [
    ['here', uuid(7)],
    ['here', uuid(5)],
    ['b', uuid(0)],
    ['b', uuid(1)],
  ];
  assert.deepEqual(await opened(), first);
  // One that chooses none gets the first that nobody has chosen.
  await cluster.addInstance({ name: 'b', endpoint, host: 'b', ranks: [9] });
  assert.deepEqual(await opened(), [...first, ['b', uuid(2)]]);
  // An index and a UUID of one GPU: only its host knows.
  await cluster.addInstance({ name: 'twice', endpoint, devices: [6, uuid(6)], ranks: [10, 11] });
  const data = new Uint8Array(8);
  await cluster.register('weights', { tensors: { w: { dtype: 'U8', shape: [8], data } } });
  await assert.rejects(cluster.update('weights', { instances: ['twice'] }), {
    name: 'UsageError',
    message: new RegExp(`ranks 10 \\(host .*\\) and 11 \\(host .*\\) both have the device ${uuid(6)}`),
  });
  // That one is its own, though it has chosen none.
  for (const device of [2, uuid(2)])
    await assert.rejects(
      cluster.addInstance({ name: 'c', endpoint, host: 'b', devices: [device], ranks: [12] }),
      {
        name: 'UsageError',
        message: `instances b and c both have a worker on device ${uuid(2)} of host b (ranks 9 and 12)`,
      },
    );
  const absent = { name: 'c', endpoint, host: 'b', devices: ['GPU-none'] };
  await assert.rejects(cluster.addInstance(absent), /there is no device GPU-none; this host has GPU-a0/);
});
