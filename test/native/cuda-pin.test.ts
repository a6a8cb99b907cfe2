import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { NativeError } from '../../src/errors.ts';
import { Mapping } from '../../src/native-bridge/memory.ts';
import { armNativeFault } from '../../src/native-bridge/native-faults.ts';
import { CudaTest, contentOf, fake, mebibyte, pinned, run } from './cuda-harness.ts';

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
  await Promise.all([device.unpin(segment), device.unpin(segment)]);
  assert.equal(fake.census().pinnedBytes, 0);
  await device.unpin(segment);
  await device.pin(segment);
  assert.equal(fake.census().pinnedBytes, mebibyte);
});

test('a segment that cannot be pinned, on purpose, is pinned at the next try', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const segment = cuda.segment(Buffer.alloc(mebibyte));
  armNativeFault('native-pin', 'refuse', 0);
  await assert.rejects(device.pin(segment), /native-pin:refuse, on purpose/);
  assert.equal(device.pinnedBytes, 0);
  await device.pin(segment);
  assert.equal(device.pinnedBytes, mebibyte);
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

test('a segment that is asked for twice stays pinned when the first attempt fails', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const segment = cuda.segment(Buffer.alloc(mebibyte));
  fake.failNext('cuMemHostRegister_v2', outOfMemory, 0, 0);
  const [first, second] = await Promise.allSettled([device.pin(segment), device.pin(segment)]);
  assert.equal(first.status, 'rejected');
  assert.equal(second.status, 'fulfilled');
  assert.equal(device.pinnedBytes, mebibyte);
  await device.unpin(segment);
  assert.equal(fake.census().pinnedBytes, 0);
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

const part = 128 * mebibyte;

test('a large segment is pinned in parts, and no copy reaches from one into the next', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const path = `/dev/shm/${cuda.host.namespace}-large`;
  const segment = Mapping.create(path, 2 * part + 4096);
  t.after(() => {
    segment.unlink();
    segment.close();
  });
  const calls = fake.calls('cuMemHostRegister_v2');
  await Promise.all([device.pin(segment), device.pin(segment)]);
  assert.equal(fake.calls('cuMemHostRegister_v2') - calls, 3);
  assert.equal(device.pinnedBytes, segment.bytes);

  segment.write(part - 8, Buffer.from('abcdefghijklmnop'));
  const buffer = device.allocate(4096);
  const upload = async (rectangle: number[]) => {
    fake.takeUploads();
    await device.upload([{ segment, rectangles: Float64Array.from(rectangle) }], buffer);
    return fake.takeUploads();
  };
  // A run across the seam, one right before it, one right after it.
  assert.deepEqual(await upload(run(part - 8, 0, 16)), [8, 1, 8, 1]);
  assert.equal(await contentOf(device, buffer, 16), 'abcdefghijklmnop');
  assert.deepEqual(await upload(run(part - 8, 0, 8)), [8, 1]);
  assert.deepEqual(await upload(run(part, 0, 8)), [8, 1]);
  // Rows of 3 bytes, 5 apart: one before the seam, one across it, one behind it.
  assert.deepEqual(await upload([part - 6, 16, 3, 3, 5, 4]), [3, 1, 1, 1, 2, 1, 3, 1]);
  assert.equal((await contentOf(device, buffer, 28)).slice(16).replaceAll('\0', '.'), 'cde.hij.mno.');
  // Rows that all lie in one part stay together; a row may end where the part does.
  assert.deepEqual(await upload([part - 8, 0, 3, 3, 5, 3]), [3, 2, 3, 1]);
  assert.equal(await contentOf(device, buffer, 9), 'abcfghklm');
  await device.unpin(segment);
  assert.equal(fake.census().pinnedBytes, 0);
});

test('a part that is refused leaves none of the others pinned', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const path = `/dev/shm/${cuda.host.namespace}-large`;
  const segment = Mapping.create(path, part + 4096);
  t.after(() => {
    segment.unlink();
    segment.close();
  });
  fake.failNext('cuMemHostRegister_v2', outOfMemory, 1, 0);
  await assert.rejects(device.pin(segment), /cannot page-lock .*that is memory of the host$/);
  await pinned(0);
  await device.pin(segment);
  assert.equal(device.pinnedBytes, segment.bytes);
});

test('once a segment is said to be unpinned, closing it gives its memory back', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const isMapped = (path: string) => readFileSync('/proc/self/maps', 'utf8').includes(path);
  for (let round = 0; round < 50; round += 1) {
    const segment = cuda.segment(Buffer.alloc(4096));
    await device.pin(segment);
    await device.unpin(segment);
    assert(isMapped(segment.path));
    segment.close();
    assert(!isMapped(segment.path));
  }
});
