import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DeviceLostError, fromWire, NativeError, OutOfDeviceMemoryError, toWire } from '../../src/errors.ts';
import { CudaTest, contentOf, fake, mebibyte, run } from './cuda-harness.ts';

/** Results of the driver. */
const [invalidValue, outOfMemory, eccUncorrectable, illegalAddress, launchFailed] = [1, 2, 214, 700, 719];

function onePiece(cuda: CudaTest, text: string) {
  return [
    { segment: cuda.segment(Buffer.from(text)), rectangles: Float64Array.from(run(0, 0, text.length)) },
  ];
}

test("a call that fails carries what was attempted and the driver's own words", async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const buffer = device.allocate(4);
  const transfers = onePiece(cuda, 'abcd');
  fake.failNext('cuMemcpyHtoDAsync_v2', invalidValue, 0, 0);
  await assert.rejects(device.upload(transfers, buffer), {
    name: 'NativeError',
    message: `cannot upload from ${transfers[0]!.segment.path}: invalid argument (CUDA_ERROR_INVALID_VALUE)`,
  });
  // Only that one.
  await device.upload(transfers, buffer);
  assert.equal(await contentOf(device, buffer), 'abcd');
});

test('an upload that fails half-way is reported after its first half has ended', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const buffer = device.allocate(8);
  fake.set('copyMilliseconds', 20);
  fake.failNext('cuMemcpyHtoDAsync_v2', invalidValue, 1, 0);
  const transfers = [...onePiece(cuda, 'abcd'), ...onePiece(cuda, 'wxyz')];
  await assert.rejects(device.upload(transfers, buffer), NativeError);
  assert.deepEqual(fake.takeUploads(), [4, 1]);
});

test('a result that the driver has no words for is told by its number', (t) => {
  const device = new CudaTest(t).device();
  fake.failNext('cuMemGetInfo_v2', 12_345, 0, 0);
  assert.throws(() => device.memory(), { name: 'NativeError', message: /: CUDA error 12345$/ });
});

test('an allocation refused by the driver says so also where it cannot tell what is free', (t) => {
  const device = new CudaTest(t).device();
  fake.failNext('cuMemAlloc_v2', outOfMemory, 0, 0);
  fake.failNext('cuMemGetInfo_v2', invalidValue, 0, 0);
  assert.throws(
    () => device.allocate(mebibyte),
    (error) => error instanceof OutOfDeviceMemoryError && /: 1 MiB wanted: out of memory/.test(error.message),
  );
});

test('an error that stays with the context makes everything on the device fail as lost', async (t) => {
  const cuda = new CudaTest(t);
  for (const result of [illegalAddress, eccUncorrectable, launchFailed]) {
    const device = cuda.device();
    const buffer = device.allocate(4);
    const transfers = onePiece(cuda, 'abcd');
    fake.failNext('cuMemcpyHtoDAsync_v2', result, 2, 1);
    const endings = await Promise.allSettled([1, 2, 3, 4, 5].map(() => device.upload(transfers, buffer)));
    // What ran before may or may not be seen to have ended well; nothing is from the third on.
    for (const ending of endings.slice(2)) {
      assert(ending.status === 'rejected' && ending.reason instanceof DeviceLostError, ending.status);
    }
    await assert.rejects(device.upload(transfers, buffer), DeviceLostError);
    await assert.rejects(device.digest(buffer, new Float64Array()), DeviceLostError);
    assert.throws(() => device.allocate(1), DeviceLostError);
    assert.throws(() => device.memory(), DeviceLostError);
    await assert.rejects(device.pin(transfers[0]!.segment), DeviceLostError);
    device.close();
    fake.poison(0);
  }
});

test('an error of work that was already running is noticed within moments and ends all uploads', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const buffer = device.allocate(4);
  const transfers = onePiece(cuda, 'abcd');
  fake.set('held', 1);
  const uploads = Array.from({ length: 30 }, () => device.upload(transfers, buffer));
  const endings = Promise.allSettled(uploads);
  await new Promise((resolve) => setTimeout(resolve, 20));
  const poisonedAt = Date.now();
  // The driver calls nobody back after this.
  fake.poison(illegalAddress);
  // What the driver does next for one of them is what fails.
  for (const ending of await endings) {
    assert(ending.status === 'rejected');
    assert(ending.reason instanceof DeviceLostError);
    assert.match(
      ending.reason.message,
      /^cannot (upload to device GPU-.*|enter the context of the device): an illegal memory access was encountered \(CUDA_ERROR_ILLEGAL_ADDRESS\)$/,
    );
  }
  assert(Date.now() - poisonedAt < 5000, 'it was not noticed within five seconds');
});

test('a GPU that makes no progress is given up as lost', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device({ stallMilliseconds: 200 });
  const buffer = device.allocate(4);
  fake.set('held', 1);
  const uploads = [1, 2, 3].map(() => device.upload(onePiece(cuda, 'abcd'), buffer));
  for (const ending of await Promise.allSettled(uploads)) {
    assert(ending.status === 'rejected' && ending.reason instanceof DeviceLostError);
    assert.match(
      ending.reason.message,
      /^cannot upload to device GPU-.*: no progress for 200 ms, so the GPU hangs$/,
    );
  }
  const askedAt = Date.now();
  await assert.rejects(device.upload(onePiece(cuda, 'abcd'), buffer), DeviceLostError);
  device.close();
  assert(Date.now() - askedAt < 1000, 'a device that hangs does not hold up whoever closes it');
});

test('work that waits its turn is not taken for work that hangs', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device({ stallMilliseconds: 1500 });
  const buffer = device.allocate(4);
  fake.set('copyMilliseconds', 250);
  // Two seconds in all, and never long without an end.
  await Promise.all(Array.from({ length: 8 }, () => device.upload(onePiece(cuda, 'abcd'), buffer)));
});

test('the operations that wait are limited, and those within the limit still run', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const buffer = device.allocate(4);
  const transfers = onePiece(cuda, 'abcd');
  fake.set('held', 1);
  const uploads = Array.from({ length: 5000 }, () => device.upload(transfers, buffer));
  const endings = Promise.allSettled(uploads);
  fake.set('held', 0);
  const refused = (await endings).filter((ending) => ending.status === 'rejected');
  assert(refused.length > 0 && refused.length < 1000, `${refused.length} were refused`);
  for (const { reason } of refused) assert.equal(reason.name, 'OverloadedError');
});

test('a context that cannot be made leaves nothing behind', (t) => {
  const cuda = new CudaTest(t);
  // Devices that were lost keep theirs.
  const { contexts, streams } = fake.census();
  for (const name of ['cuDevicePrimaryCtxRetain', 'cuStreamCreate']) {
    fake.failNext(name, outOfMemory, 0, 0);
    assert.throws(() => cuda.device(), OutOfDeviceMemoryError);
    assert.deepEqual({ ...fake.census(), contexts, streams }, fake.census());
  }
});

test('a lost device keeps its class when it crosses a process', () => {
  assert(fromWire(toWire(new DeviceLostError('gone'))) instanceof DeviceLostError);
});
