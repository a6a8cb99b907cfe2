import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CudaDevice } from '../../src/native-bridge/cuda-device.ts';
import { NcclCollective, probeNccl } from '../../src/native-bridge/nccl-collective.ts';
import { buildFakeCuda } from './fake-cuda.ts';
import { loadFakeNccl } from './fake-nccl.ts';
import { TestHost } from './harness.ts';

// In this order: a library that does not do is not kept, one that does is.

test('without NCCL the error says what to install or set', () => {
  process.env.WEIGHTCAST_NCCL = '/nowhere/libnccl.so.2';
  assert.throws(() => probeNccl(), {
    name: 'NativeError',
    message: /^cannot load NCCL \(\/nowhere\/libnccl\.so\.2: .*\); install it, or set WEIGHTCAST_NCCL/,
  });
});

test('a library that is not NCCL is refused by its name', () => {
  process.env.WEIGHTCAST_NCCL = `${buildFakeCuda()}/libcuda.so.1`;
  assert.throws(() => probeNccl(), {
    name: 'NativeError',
    message: /libcuda\.so\.1 has no function ncclGetVersion; it is not NCCL 2\.19\.0 or newer/,
  });
});

test('an NCCL that is too old is refused with its version', () => {
  loadFakeNccl();
  process.env.FAKE_NCCL_VERSION = '21805';
  assert.throws(() => probeNccl(), {
    name: 'NativeError',
    message: /is NCCL 2\.18\.5; 2\.19\.0 or newer is needed/,
  });
});

test('an NCCL before 2.30.7 does, but not for several ranks on one GPU', () => {
  process.env.FAKE_NCCL_VERSION = '23006';
  assert.deepEqual(probeNccl(), { version: '2.30.6', allowsSharedDevices: false });
});

test('several ranks on one GPU are allowed, and multicast is off, unless the environment says otherwise', () => {
  assert.equal(process.env.NCCL_MULTI_RANK_GPU_ENABLE, '1');
  assert.equal(process.env.NCCL_NVLS_ENABLE, '0');
});

test('an id that is not one of NCCL is refused', async (t) => {
  const host = new TestHost(t);
  const device = CudaDevice.open({ index: 0, pinThreads: 1 });
  t.after(() => device.close());
  const options = {
    device,
    controlPath: host.controlPath(),
    rank: 0,
    worldSize: 1,
    timeoutMilliseconds: 1000,
  };
  await assert.rejects(NcclCollective.open({ ...options, id: new Uint8Array(127) }), {
    name: 'NativeError',
    message: 'id must have 128 bytes, not 127',
  });
  await assert.rejects(NcclCollective.open({ ...options, rank: 1, id: NcclCollective.uniqueId() }), {
    name: 'NativeError',
    message: /rank 1 is not one of 1 ranks/,
  });
  assert.deepEqual(host.remains(), []);
});
