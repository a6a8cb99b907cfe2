import assert from 'node:assert/strict';
import { fork, spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { NativeError, OutOfDeviceMemoryError } from '../../src/errors.ts';
import { CudaDevice } from '../../src/native-bridge/cuda-device.ts';
import { digestPart } from '../../src/native-bridge/digest-parts.ts';
import { Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import { probeCuda } from '../../src/native-bridge/probe.ts';
import { Program } from '../native/harness.ts';
import { buildFaultLibrary } from './fault-library.ts';
import { GpuTest, mebibyte, run, skip } from './harness.ts';

test('a device has the UUID that nvidia-smi tells', { skip }, (t) => {
  const { stdout } = spawnSync('nvidia-smi', ['--query-gpu=uuid', '--format=csv,noheader'], {
    encoding: 'utf8',
  });
  const { device } = new GpuTest(t);
  assert.equal(device.uuid, probeCuda().devices[0]!.uuid);
  assert(stdout.split('\n').includes(device.uuid), `${device.uuid} is not in ${stdout}`);
});

test('what is uploaded is what lies on the GPU, by the GPU and by a read-back', { skip }, async (t) => {
  const { device, segment: source } = withSegment(new GpuTest(t), 64 * mebibyte + 5);
  const pool = new ThreadPool(4);
  t.after(() => pool.close());
  const { bytes } = source;
  const buffer = device.allocate(bytes);
  await device.pin(source);
  await device.upload([{ segment: source, rectangles: Float64Array.from(run(0, 0, bytes)) }], buffer);
  const whole = Float64Array.of(0, bytes, 1, bytes, 0, bytes, bytes);
  assert.deepEqual(await device.digest(buffer, whole), await pool.digest(source, whole));
  const at = 37 * mebibyte + 3;
  assert.deepEqual(await device.read(buffer, at, 1000), source.read(at, 1000));
  device.unpin(source);
});

test('every alignment and shape of tensors is digested on the GPU as on the host', { skip }, async (t) => {
  const { device, segment } = withSegment(new GpuTest(t), 4 * mebibyte);
  const pool = new ThreadPool(4);
  t.after(() => pool.close());
  const buffer = device.allocate(segment.bytes);
  await device.upload([{ segment, rectangles: Float64Array.from(run(0, 0, segment.bytes)) }], buffer);
  const parts: number[] = [];
  for (let offset = 0; offset < 9; offset += 1) {
    for (let tensorOffset = 0; tensorOffset < 9; tensorOffset += 1) {
      for (const rowBytes of [0, 1, 7, 8, 9, 255, 256, 257, 4096, 65_535, 65_536, 131_073]) {
        for (const rows of [1, 3]) {
          const tensorPitch = rowBytes + tensorOffset;
          const tensorBytes = tensorOffset + (rows - 1) * tensorPitch + rowBytes;
          const pitch = rowBytes + offset;
          parts.push(
            ...digestPart({ offset, rowBytes, rows, pitch, tensorOffset, tensorPitch, tensorBytes }),
          );
        }
      }
    }
  }
  const list = Float64Array.from(parts);
  assert.deepEqual(await device.digest(buffer, list), await pool.digest(segment, list));
});

test('rows are uploaded to their places, from pinned memory and other', { skip }, async (t) => {
  const { device, segment } = withSegment(new GpuTest(t), 8 * mebibyte);
  const buffer = device.allocate(mebibyte);
  const rowBytes = 1000;
  const rows = 50;
  for (const pinned of [false, true]) {
    if (pinned) await device.pin(segment);
    const rectangles = Float64Array.of(3, 7, rowBytes, rows, 100_001, 1003);
    await device.upload([{ segment, rectangles }], buffer);
    const found = await device.read(buffer, 0, 7 + rows * 1003);
    for (let row = 0; row < rows; row += 1) {
      const at = 7 + row * 1003;
      assert.deepEqual(
        found.subarray(at, at + rowBytes),
        segment.read(3 + row * 100_001, rowBytes),
        `row ${row}`,
      );
    }
  }
});

test('another process opens the memory and finds the same content', { skip }, async (t) => {
  const { device, segment } = withSegment(new GpuTest(t), 3 * mebibyte + 1);
  const { bytes } = segment;
  const buffer = device.allocate(bytes);
  await device.upload([{ segment, rectangles: Float64Array.from(run(0, 0, bytes)) }], buffer);
  const [own] = await device.digest(buffer, Float64Array.of(0, bytes, 1, bytes, 0, bytes, bytes));
  const fixture = fileURLToPath(new URL('fixtures/opener.js', import.meta.url));
  const handle = Buffer.from(buffer.ipcHandle).toString('hex');
  const found = await new Program(fork(fixture, [handle, String(bytes)])).message();
  assert.deepEqual(found, { digest: String(own), bytes: 4 * mebibyte });
});

test('a segment mapped for reading is pinned and uploaded from', { skip }, async (t) => {
  const { device, segment } = withSegment(new GpuTest(t), mebibyte);
  const reading = Mapping.open(segment.path, false);
  await device.pin(reading);
  assert.equal(device.pinnedBytes, mebibyte);
  const buffer = device.allocate(mebibyte);
  await device.upload([{ segment: reading, rectangles: Float64Array.from(run(0, 0, mebibyte)) }], buffer);
  assert.deepEqual(await device.read(buffer, 0, mebibyte), segment.read(0, mebibyte));
  device.unpin(reading);
  await unpinned(device);
});

test('more memory than is free is refused, and the device works on', { skip }, async (t) => {
  const { device } = new GpuTest(t);
  const { free } = device.memory();
  assert.throws(() => device.allocate(free + (1 << 30)), OutOfDeviceMemoryError);
  device.allocate(mebibyte).free();
});

test('fifty rounds of pinning, allocating, uploading and digesting leave as much as there was', {
  skip,
}, async (t) => {
  const { device, segment } = withSegment(new GpuTest(t), 8 * mebibyte);
  const parts = Float64Array.of(0, segment.bytes, 1, 0, 0, 0, segment.bytes);
  const rounds = async (count: number) => {
    for (let round = 0; round < count; round += 1) {
      await device.pin(segment);
      const buffer = device.allocate(segment.bytes);
      await device.upload([{ segment, rectangles: Float64Array.from(run(0, 0, segment.bytes)) }], buffer);
      await device.digest(buffer, parts);
      buffer.free();
      device.unpin(segment);
    }
    await unpinned(device);
    return device.memory();
  };
  const before = await rounds(1);
  assert.deepEqual(await rounds(50), before);
});

test('the thread that waits for the GPU sleeps', { skip }, async (t) => {
  const { device, segment } = withSegment(new GpuTest(t), 256 * mebibyte);
  const buffer = device.allocate(segment.bytes);
  await device.pin(segment);
  const rectangles = Float64Array.from(run(0, 0, segment.bytes));
  const before = process.cpuUsage();
  const uploads = await Promise.all(
    Array.from({ length: 100 }, () => device.upload([{ segment, rectangles }], buffer)),
  );
  const { user, system } = process.cpuUsage(before);
  const milliseconds = uploads.at(-1)!.endedAt - uploads[0]!.startedAt;
  const busy = (user + system) / 1000;
  assert(busy < milliseconds / 4, `${busy} ms of a processor in ${milliseconds} ms of uploading`);
});

test('two devices in one process share the GPU, and closing one leaves the other', { skip }, async (t) => {
  const { device, segment } = withSegment(new GpuTest(t), mebibyte);
  const other = CudaDevice.open({ index: 0, pinThreads: 2 });
  const buffer = other.allocate(mebibyte);
  device.close();
  assert.throws(() => device.allocate(1), NativeError);
  await other.upload([{ segment, rectangles: Float64Array.from(run(0, 0, mebibyte)) }], buffer);
  assert.deepEqual(await other.read(buffer, 0, mebibyte), segment.read(0, mebibyte));
  other.close();
});

test('a fault of the GPU is an error of its own class, in its process and no other', { skip }, async (t) => {
  const { device, segment } = withSegment(new GpuTest(t), mebibyte);
  const library = buildFaultLibrary(t);
  const fixture = fileURLToPath(new URL('fixtures/faulter.js', import.meta.url));
  const found = await new Program(fork(fixture, [library])).message<Record<string, string>>();
  assert.equal(found.upload, 'DeviceLostError', found.message);
  assert.match(found.message!, /^cannot upload to device GPU-.*: .* \(CUDA_ERROR_ILLEGAL_ADDRESS\)$/);
  assert.equal(found.allocation, 'DeviceLostError');
  const buffer = device.allocate(mebibyte);
  await device.upload([{ segment, rectangles: Float64Array.from(run(0, 0, mebibyte)) }], buffer);
});

/** Unpinning is not waited for. */
async function unpinned(device: CudaDevice): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (device.pinnedBytes > 0) {
    assert(Date.now() < deadline, `${device.pinnedBytes} bytes are still pinned`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

function withSegment(gpu: GpuTest, bytes: number): { device: CudaDevice; segment: Mapping } {
  return { device: gpu.device, segment: gpu.segment(bytes) };
}
