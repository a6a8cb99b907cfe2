import assert from 'node:assert/strict';
import { test } from 'node:test';
import { NativeError } from '../../src/errors.ts';
import { CudaTest, contentOf, fake, mebibyte, run } from './cuda-harness.ts';

test('upload copies rectangles out of segments to absolute offsets in the buffer', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const buffer = device.allocate(12);
  const [dots, first, second] = ['............', 'abcdefgh', 'ijklmnop'].map((text) =>
    cuda.segment(Buffer.from(text)),
  );
  await device.upload([{ segment: dots!, rectangles: Float64Array.from(run(0, 0, 12)) }], buffer);
  const interval = await device.upload(
    [
      // Rows "ab" and "ef" next to each other, from byte 1 on; then "nop" in one piece.
      { segment: first!, rectangles: Float64Array.of(0, 1, 2, 2, 4, 2) },
      { segment: second!, rectangles: Float64Array.from(run(5, 8, 3)) },
    ],
    buffer,
  );
  assert.equal(await contentOf(device, buffer), '.abef...nop.');
  assert(interval.startedAt <= interval.endedAt);
});

test('an upload copies out of memory of the device as out of segments, both in one', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const source = device.allocate(12);
  const buffer = device.allocate(16);
  const segments = ['abcdefghijkl', '................'].map((text) => cuda.segment(Buffer.from(text)));
  await device.upload([{ segment: segments[0]!, rectangles: Float64Array.from(run(0, 0, 12)) }], source);
  await device.upload([{ segment: segments[1]!, rectangles: Float64Array.from(run(0, 0, 16)) }], buffer);
  const interval = await device.upload(
    [
      // Rows "ab" and "ef" next to each other, then "jkl" in one piece.
      { segment: source, rectangles: Float64Array.of(0, 1, 2, 2, 4, 2, ...run(9, 8, 3)) },
      { segment: segments[0]!, rectangles: Float64Array.from(run(0, 13, 2)) },
    ],
    buffer,
  );
  assert.equal(await contentOf(device, buffer), '.abef...jkl..ab.');
  assert(interval.startedAt <= interval.endedAt);
  await assert.rejects(
    device.upload([{ segment: source, rectangles: Float64Array.from(run(0, 15, 2)) }], buffer),
    NativeError,
  );
});

test('runs that lie next to each other on both sides are copied as one, in whatever order they come', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const segment = cuda.segment(Buffer.alloc(4096, 1));
  const buffer = device.allocate(4096);
  const rectangles = Float64Array.from([
    ...run(1024, 1024, 1024),
    ...run(0, 0, 1024),
    // Four rows without gaps are a run, and this one goes on where the first ended.
    ...[2048, 2048, 256, 4, 256, 256],
    // Adjacent in the buffer only.
    ...run(3200, 3072, 128),
    // Nothing.
    ...run(0, 3300, 0),
  ]);
  await device.upload([{ segment, rectangles }], buffer);
  assert.deepEqual(fake.takeUploads(), [3072, 1, 128, 1]);
});

test('rows go in one call of the driver unless their pitch is more than it takes', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const segment = cuda.segment(Buffer.alloc(3 * mebibyte, 1));
  const buffer = device.allocate(mebibyte);
  const within = Float64Array.of(0, 0, 16, 3, mebibyte, 16);
  await device.upload([{ segment, rectangles: within }], buffer);
  assert.deepEqual(fake.takeUploads(), [16, 3]);
  const beyond = Float64Array.of(0, 0, 16, 2, mebibyte + 1, 16);
  await device.upload([{ segment, rectangles: beyond }], buffer);
  assert.deepEqual(fake.takeUploads(), [16, 1, 16, 1]);
});

test('uploads that wait behind each other run in order, and the later one wins', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const buffer = device.allocate(4);
  fake.set('held', 1);
  const settled: number[] = [];
  const uploads = Array.from({ length: 40 }, (_, number) => {
    const segment = cuda.segment(Buffer.from(String(number).padStart(4)));
    return device
      .upload([{ segment, rectangles: Float64Array.from(run(0, 0, 4)) }], buffer)
      .then((interval) => {
        settled.push(number);
        return interval;
      });
  });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.deepEqual(settled, []);
  fake.set('held', 0);
  const intervals = await Promise.all(uploads);
  assert.deepEqual(settled, [...uploads.keys()]);
  assert.equal(await contentOf(device, buffer), '  39');
  for (const [index, { startedAt, endedAt }] of intervals.entries()) {
    assert(startedAt <= endedAt);
    if (index > 0) assert(startedAt >= intervals[index - 1]!.endedAt, `upload ${index} overlaps`);
  }
});

test('the next upload is with the GPU before the one ahead of it has ended', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const buffer = device.allocate(4);
  const segment = cuda.segment(Buffer.from('abcd'));
  const calls = fake.calls('cuMemcpyHtoDAsync_v2');
  fake.set('held', 1);
  const uploads = [1, 2, 3].map(() =>
    device.upload([{ segment, rectangles: Float64Array.from(run(0, 0, 4)) }], buffer),
  );
  const deadline = Date.now() + 5000;
  while (fake.calls('cuMemcpyHtoDAsync_v2') < calls + 3) {
    assert(Date.now() < deadline, 'only the first upload reached the driver');
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  fake.set('held', 0);
  await Promise.all(uploads);
});

test('an interval is what the GPU took, in the time of the host', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const buffer = device.allocate(4);
  const segment = cuda.segment(Buffer.from('abcd'));
  const upload = () => device.upload([{ segment, rectangles: Float64Array.from(run(0, 0, 4)) }], buffer);
  await upload();
  fake.set('copyMilliseconds', 30);
  const before = performance.timeOrigin + performance.now();
  const offset = before - Number(process.hrtime.bigint()) / 1e6;
  const { startedAt, endedAt } = await upload();
  const after = performance.timeOrigin + performance.now();
  assert(endedAt - startedAt >= 30, `the copy took ${endedAt - startedAt} ms`);
  assert(startedAt + offset >= before - 1, 'it starts after it was asked for');
  assert(endedAt + offset <= after + 1, 'it ends before it was answered');
});

test('an upload that reaches past the end of the buffer or the segment is refused and harms no other', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const buffer = device.allocate(8);
  const segment = cuda.segment(Buffer.alloc(16, 65));
  const upload = (...rectangle: number[]) =>
    device.upload([{ segment, rectangles: Float64Array.from(rectangle) }], buffer);
  const good = upload(...run(0, 0, 8));
  await assert.rejects(upload(...run(0, 4, 8)), /the destination of rectangle 0 .* lies outside 8 bytes/);
  await assert.rejects(upload(...run(12, 0, 8)), /the source of rectangle 0 .* lies outside 16 bytes/);
  await assert.rejects(upload(1, 2, 3), NativeError);
  await good;
  assert.equal(await contentOf(device, buffer), 'AAAAAAAA');
});

test('a buffer freed and a segment closed under an upload stay until it has ended', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const buffer = device.allocate(mebibyte);
  const segment = cuda.segment(Buffer.alloc(mebibyte, 1));
  fake.set('held', 1);
  const upload = device.upload([{ segment, rectangles: Float64Array.from(run(0, 0, mebibyte)) }], buffer);
  buffer.free();
  segment.close();
  assert.equal(fake.census().allocations, 1);
  fake.set('held', 0);
  await upload;
  assert.equal(fake.census().allocations, 0);
});

test('closing a device lets what is under way end, and fails what has not begun', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const buffer = device.allocate(4);
  const segment = cuda.segment(Buffer.from('abcd'));
  fake.set('copyMilliseconds', 5);
  const uploads = Array.from({ length: 100 }, () =>
    device.upload([{ segment, rectangles: Float64Array.from(run(0, 0, 4)) }], buffer),
  );
  await uploads[0];
  device.close();
  const endings = await Promise.allSettled(uploads);
  const failed = endings.filter(({ status }) => status === 'rejected');
  assert(failed.length > 0 && failed.length < 100, `${failed.length} of 100 uploads failed`);
  for (const ending of failed) {
    assert(ending.status === 'rejected' && ending.reason instanceof NativeError);
    assert.match(ending.reason.message, /is closed/);
  }
  // What ended well comes before what did not.
  assert(endings.slice(0, 100 - failed.length).every(({ status }) => status === 'fulfilled'));
  assert.equal(fake.takeUploads().length / 2, 100 - failed.length);
});

test('an upload of nothing takes no time', async (t) => {
  const cuda = new CudaTest(t);
  const device = cuda.device();
  const { startedAt, endedAt } = await device.upload([], device.allocate(1));
  assert(endedAt - startedAt < 50);
});
