import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { NativeError, OutOfDeviceMemoryError, UsageError } from '../../src/errors.ts';
import { CudaDevice } from '../../src/native-bridge/cuda-device.ts';
import { probeCuda } from '../../src/native-bridge/probe.ts';
import { CudaTest, contentOf, fake, mebibyte, run, settled } from './cuda-harness.ts';

const nothing = {
  contexts: 0,
  streams: 0,
  events: 0,
  modules: 0,
  hostBuffers: 0,
  allocations: 0,
  pinnedBytes: 0,
};

test('a device is named as NVML and vLLM name it, an instance of MIG by its own UUID', (t) => {
  const cuda = new CudaTest(t);
  assert.equal(cuda.device({ index: 0 }).uuid, 'GPU-a0a1a2a3-a4a5-a6a7-a8a9-aaabacadae00');
  assert.equal(cuda.device({ index: 1 }).uuid, 'MIG-11a1a2a3-a4a5-a6a7-a8a9-aaabacadae01');
});

test('the driver is asked what there is without making a context', () => {
  const { version, devices } = probeCuda();
  assert.equal(version, '12.4');
  assert.deepEqual(devices[0], {
    uuid: 'GPU-a0a1a2a3-a4a5-a6a7-a8a9-aaabacadae00',
    name: 'Fake GPU',
    totalBytes: 256 * mebibyte,
    pciAddress: '0000:a1:00.0',
  });
  assert.equal(devices.length, 2);
  assert.equal(fake.census().contexts, 0);
});

test('an allocation takes whole steps of 2 MiB, so that its handle opens nothing else', (t) => {
  const device = new CudaTest(t).device();
  const before = device.memory();
  assert.equal(before.free, before.total);
  const buffer = device.allocate(2 * mebibyte + 1);
  assert.equal(buffer.bytes, 2 * mebibyte + 1);
  assert.equal(buffer.ipcHandle.length, 64);
  assert.equal(device.memory().free, before.free - 4 * mebibyte);
  buffer.free();
  buffer.free();
  assert.deepEqual(device.memory(), before);
});

test('too large an allocation is refused with what was wanted and what is free', (t) => {
  const device = new CudaTest(t).device();
  device.allocate(128 * mebibyte);
  assert.throws(
    () => device.allocate(200 * mebibyte),
    (error) => {
      assert(error instanceof OutOfDeviceMemoryError);
      assert.equal(
        error.message,
        'device GPU-a0a1a2a3-a4a5-a6a7-a8a9-aaabacadae00: 200 MiB wanted, 128 MiB of 256 MiB free: ' +
          'out of memory (CUDA_ERROR_OUT_OF_MEMORY)',
      );
      return true;
    },
  );
  device.allocate(128 * mebibyte);
  assert.throws(() => device.allocate(0), NativeError);
});

test('closing a device gives everything back, and it can be opened again', async (t) => {
  const cuda = new CudaTest(t);
  const segment = cuda.segment(Buffer.from('abc'));
  for (let round = 0; round < 3; round += 1) {
    const device = cuda.device();
    const buffer = device.allocate(mebibyte);
    await device.pin(segment);
    await device.upload([{ segment, rectangles: Float64Array.from(run(0, 0, 3)) }], buffer);
    await device.digest(buffer, Float64Array.of(0, 3, 1, 0, 0, 0, 3));
    assert.equal(await contentOf(device, buffer, 3), 'abc');
    device.close();
    device.close();
    await settled(() => assert.deepEqual(fake.census(), nothing));
    buffer.free();
    assert.throws(() => device.allocate(1), { name: 'NativeError', message: /is closed/ });
    assert.throws(() => device.memory(), NativeError);
    assert.throws(() => buffer.ipcHandle, NativeError);
    await assert.rejects(device.pin(segment), NativeError);
    await assert.rejects(device.upload([], buffer), NativeError);
  }
});

test('another process opens memory by its handle, and closing it there leaves it here', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const buffer = device.allocate(5);
  const segment = cuda.segment(Buffer.from('hello'));
  await device.upload([{ segment, rectangles: Float64Array.from(run(0, 0, 5)) }], buffer);
  const handle = Buffer.from(buffer.ipcHandle).toString('hex');
  const found = await cuda.host.start('cuda-opener', handle, 'HE').message();
  assert.deepEqual(found, { before: 'hello', bytes: 2 * mebibyte });
  assert.equal(await contentOf(device, buffer), 'HEllo');
});

test('a handle that opens nothing is refused', (t) => {
  const device = new CudaTest(t).device();
  const own = device.allocate(1);
  assert.throws(() => device.open(own.ipcHandle), {
    name: 'NativeError',
    message:
      /^cannot open another process's memory on device GPU-.*: invalid argument \(CUDA_ERROR_INVALID_VALUE\)$/,
  });
  assert.throws(() => device.open(new Uint8Array(63)), /has 64 bytes, not 63/);
});

test('a device that is not there is refused with how many there are', () => {
  assert.throws(() => CudaDevice.open({ index: 2, pinThreads: 2 }), {
    name: 'NativeError',
    message: 'there is no CUDA device 2: this process sees 2, counted from 0 among CUDA_VISIBLE_DEVICES',
  });
  assert.throws(() => CudaDevice.open({ index: -1, pinThreads: 2 }), UsageError);
  assert.throws(() => CudaDevice.open({ index: 0, pinThreads: 1, stallMilliseconds: 0 }), UsageError);
  assert.throws(() => CudaDevice.open({ index: 0, pinThreads: 0 }), UsageError);
  assert.throws(() => CudaDevice.open({ index: 0, pinThreads: 257 }), NativeError);
});

test('copies and reads stay inside their buffers', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const [first, second] = [device.allocate(8), device.allocate(8)];
  const segment = cuda.segment(Buffer.from('abcdefgh'));
  await device.upload([{ segment, rectangles: Float64Array.from(run(0, 0, 8)) }], first);
  await device.copy({ buffer: first, offset: 2 }, { buffer: second, offset: 1 }, 4);
  assert.equal((await contentOf(device, second)).slice(1, 5), 'cdef');
  await assert.rejects(
    device.copy({ buffer: first, offset: 5 }, { buffer: second, offset: 0 }, 4),
    /offset 5 with 4 bytes lies outside device memory of 8 bytes/,
  );
  await assert.rejects(device.read(first, 0, 9), NativeError);
  await assert.rejects(device.read(first, 0, 65 * mebibyte), /at most 64 MiB/);
  assert.equal((await device.read(first, 8, 0)).length, 0);
});

test('a process ends at once with work on the GPU under way, or by itself when that is done', (t) => {
  const cuda = new CudaTest(t);
  const fixture = fileURLToPath(new URL('fixtures/cuda-unfinished.js', import.meta.url));
  const ends = (how: string) => {
    const { status, signal, stdout } = spawnSync(process.execPath, [fixture, cuda.host.namespace, how], {
      encoding: 'utf8',
      timeout: 20_000,
    });
    return { status, signal, stdout };
  };
  assert.deepEqual(ends('exit'), { status: 0, signal: null, stdout: '' });
  assert.deepEqual(ends('throw'), { status: 1, signal: null, stdout: '' });
  assert.deepEqual(ends('end'), { status: 0, signal: null, stdout: 'all uploads settled\n' });
});
