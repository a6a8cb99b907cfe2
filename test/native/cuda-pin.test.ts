import assert from 'node:assert/strict';
import { test } from 'node:test';
import { NativeError } from '../../src/errors.ts';
import { Mapping } from '../../src/native-bridge/memory.ts';
import { CudaTest, fake, mebibyte, pinned } from './cuda-harness.ts';

const outOfMemory = 2;

test('a segment is pinned once, however often that is asked for, and unpinned once', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const segment = cuda.segment(Buffer.alloc(mebibyte));
  const calls = fake.calls('cuMemHostRegister_v2');
  await Promise.all([device.pin(segment), device.pin(segment)]);
  await device.pin(segment);
  assert.equal(fake.calls('cuMemHostRegister_v2') - calls, 1);
  assert.equal(fake.census().pinnedBytes, mebibyte);
  assert.equal(device.pinnedBytes, mebibyte);
  device.unpin(segment);
  device.unpin(segment);
  await pinned(0);
  await device.pin(segment);
  assert.equal(fake.census().pinnedBytes, mebibyte);
});

test('a pinned segment stays mapped when it is closed, until it is unpinned', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const segment = cuda.segment(Buffer.alloc(mebibyte));
  const other = cuda.segment(Buffer.alloc(mebibyte));
  await device.pin(segment);
  segment.close();
  assert.equal(fake.census().pinnedBytes, mebibyte);
  device.unpin(segment);
  await pinned(0);
  other.close();
  device.unpin(other);
  await assert.rejects(device.pin(other), NativeError);
});

test('two mappings of a file are pinned each for itself', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const segment = cuda.segment(Buffer.alloc(mebibyte));
  const again = Mapping.open(segment.path, true);
  await Promise.all([device.pin(segment), device.pin(again)]);
  assert.equal(device.pinnedBytes, 2 * mebibyte);
  device.unpin(segment);
  await pinned(mebibyte);
});

test('a file mapped for reading is pinned for reading', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const segment = Mapping.open(cuda.segment(Buffer.alloc(4096)).path, false);
  await device.pin(segment);
  assert.equal(fake.census().pinnedBytes, 4096);
});

test('a refusal names the file and its size, keeps nothing, and may be tried again', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const segment = cuda.segment(Buffer.alloc(mebibyte));
  fake.failNext('cuMemHostRegister_v2', outOfMemory, 0, 0);
  await assert.rejects(device.pin(segment), (error) => {
    // It is the host's memory that is short: a planner must not take smaller slots for it.
    assert(error instanceof NativeError);
    assert.equal(
      error.message,
      `cannot page-lock ${segment.path} (1 MiB): out of memory (CUDA_ERROR_OUT_OF_MEMORY); ` +
        'that is memory of the host',
    );
    return true;
  });
  assert.equal(device.pinnedBytes, 0);
  await device.pin(segment);
  assert.equal(device.pinnedBytes, mebibyte);
});

test('a segment unpinned while it is being pinned ends up unpinned', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  for (let round = 0; round < 50; round += 1) {
    const segment = cuda.segment(Buffer.alloc(4096));
    const done = device.pin(segment);
    device.unpin(segment);
    await done;
  }
  await pinned(0);
});

test('a segment that is unpinned and pinned again at once is pinned', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const segment = cuda.segment(Buffer.alloc(4096));
  for (let round = 0; round < 200; round += 1) {
    // The driver refuses to pin what is still pinned.
    await device.pin(segment);
    device.unpin(segment);
  }
  await pinned(0);
});

test('closing a device unpins everything', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  await Promise.all([1, 2, 3].map(() => device.pin(cuda.segment(Buffer.alloc(4096)))));
  assert.equal(device.pinnedBytes, 3 * 4096);
  device.close();
  await pinned(0);
});
