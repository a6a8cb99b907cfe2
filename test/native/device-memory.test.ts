import assert from 'node:assert/strict';
import { test } from 'node:test';
import { NativeError, OutOfDeviceMemoryError, UsageError } from '../../src/errors.ts';
import { HostDevice, openDeviceMemory } from '../../src/native-bridge/host-device.ts';
import { Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import { TestHost } from './harness.ts';

const mebibyte = 1 << 20;

test('what is allocated is no longer free, in steps of 512 bytes, until it is freed', (t) => {
  const device = new TestHost(t).device({ capacity: mebibyte });
  assert.deepEqual(device.memory(), { free: mebibyte, total: mebibyte });
  const first = device.allocate(1);
  const second = device.allocate(513);
  assert.equal(first.bytes, 1);
  assert.deepEqual(device.memory(), { free: mebibyte - 3 * 512, total: mebibyte });
  first.free();
  first.free();
  assert.equal(device.memory().free, mebibyte - 2 * 512);
  second.free();
  assert.equal(device.memory().free, mebibyte);
});

test('an allocation larger than what is free is refused, and a smaller one still succeeds', (t) => {
  const host = new TestHost(t);
  const device = host.device({ capacity: mebibyte });
  device.allocate(mebibyte / 4);
  assert.throws(
    () => device.allocate(mebibyte),
    (error) => {
      assert(error instanceof OutOfDeviceMemoryError);
      assert.equal(
        error.message,
        `device weightcast-device-${host.namespace}-0: 1 MiB wanted, 768 KiB of 1 MiB free`,
      );
      return true;
    },
  );
  device.allocate((mebibyte * 3) / 4);
  assert.equal(device.memory().free, 0);
});

test('a device holds 4,096 allocations and says so when asked for one more', (t) => {
  const device = new TestHost(t).device({ capacity: 64 * mebibyte });
  const buffers = Array.from({ length: 4096 }, () => device.allocate(1));
  assert.throws(() => device.allocate(1), { name: 'OutOfDeviceMemoryError', message: /4096 allocations/ });
  buffers[1234]!.free();
  device.allocate(1);
});

test('closing a device frees its buffers and leaves nothing in /dev/shm', (t) => {
  const host = new TestHost(t);
  const device = host.device();
  const buffer = device.allocate(1000);
  assert.deepEqual(host.remains(), [`weightcast-device-${host.namespace}-0`]);
  device.close();
  device.close();
  assert.deepEqual(host.remains(), []);
  buffer.free();
  assert.throws(() => device.allocate(1), NativeError);
  assert.throws(() => device.memory(), NativeError);
});

test('the first to open a device chooses its capacity and the others adopt it', (t) => {
  const host = new TestHost(t);
  assert.throws(() => host.device({ capacity: 0 }), { name: 'NativeError', message: /needs a capacity/ });
  const device = host.device({ capacity: mebibyte });
  assert.equal(host.device({ capacity: 0 }).memory().total, mebibyte);
  assert.equal(host.device({ capacity: mebibyte }).memory().total, mebibyte);
  assert.throws(() => host.device({ capacity: 2 * mebibyte }), {
    name: 'NativeError',
    message: /has a capacity of 1 MiB \(1048576 bytes\), not 2 MiB \(2097152 bytes\)/,
  });
  assert.equal(device.memory().free, mebibyte);
});

test('the devices of one host have memory of their own', (t) => {
  const host = new TestHost(t);
  const [first, second] = [host.device({ index: 0 }), host.device({ index: 1 })];
  assert.notEqual(first.uuid, second.uuid);
  first.allocate(4096);
  assert.equal(second.memory().free, second.memory().total);
});

test('upload copies rectangles out of segments to absolute offsets in the buffer', async (t) => {
  const host = new TestHost(t);
  const device = host.device();
  const buffer = device.allocate(12);
  const segments = ['abcdefgh', 'ijklmnop'].map((text, index) => {
    const segment = Mapping.create(`/dev/shm/${host.namespace}-segment-${index}`, text.length);
    t.after(() => segment.unlink());
    segment.write(0, Buffer.from(text));
    return segment;
  });
  buffer.mapping.write(0, Buffer.from('............'));
  const interval = await device.upload(
    [
      // Rows "ab" and "ef" next to each other, from byte 1 on; then "nop" in one piece.
      { segment: segments[0]!, rectangles: Float64Array.of(0, 1, 2, 2, 4, 2) },
      { segment: segments[1]!, rectangles: Float64Array.of(5, 8, 3, 1, 3, 3) },
    ],
    buffer,
  );
  assert.equal(buffer.mapping.read(0, 12).toString(), '.abef...nop.');
  assert(interval.startedAt <= interval.endedAt);
});

test('an upload that reaches past the end of the buffer is refused', async (t) => {
  const host = new TestHost(t);
  const device = host.device();
  const buffer = device.allocate(8);
  const segment = Mapping.create(`/dev/shm/${host.namespace}-segment`, 16);
  t.after(() => segment.unlink());
  const upload = device.upload([{ segment, rectangles: Float64Array.of(0, 4, 8, 1, 8, 8) }], buffer);
  await assert.rejects(upload, NativeError);
});

test('a host device pins nothing, and digests its memory as the host does', async (t) => {
  const host = new TestHost(t);
  const device = host.device();
  const buffer = device.allocate(13);
  const segment = Mapping.create(`/dev/shm/${host.namespace}-segment`, 13);
  t.after(() => segment.unlink());
  segment.write(0, Buffer.from('digest of it.'));
  await device.pin(segment);
  await device.upload([{ segment, rectangles: Float64Array.of(0, 0, 13, 1, 13, 13) }], buffer);
  device.unpin(segment);
  const pool = new ThreadPool(1);
  t.after(() => pool.close());
  const parts = Float64Array.of(0, 13, 1, 13, 0, 13, 13);
  assert.deepEqual(await device.digest(buffer, parts), await pool.digest(segment, parts));
  assert.equal(device.numaNode, null);
});

test('a handle opens the memory it stands for, and no other file', (t) => {
  const device = new TestHost(t).device();
  const buffer = device.allocate(3);
  buffer.mapping.write(0, Buffer.from('abc'));
  const opened = openDeviceMemory(buffer.ipcHandle);
  assert.equal(opened.read(0, 3).toString(), 'abc');
  assert.throws(() => opened.write(0, Buffer.from('x')), NativeError);
  buffer.free();
  assert.equal(opened.read(0, 3).toString(), 'abc');
  assert.throws(() => openDeviceMemory(buffer.ipcHandle), NativeError);
  for (const path of ['/etc/hostname', '/dev/shm/weightcast-device-a-0/../b', '']) {
    assert.throws(() => openDeviceMemory(Buffer.from(path)), NativeError);
  }
});

test('options that make no device are refused', () => {
  const good = { namespace: 'a', index: 0, capacity: 1024, uploadThreads: 1 };
  for (const bad of [
    { namespace: '' },
    { namespace: 'a/b' },
    { namespace: 'a'.repeat(65) },
    { index: -1 },
    { capacity: 1.5 },
    { uploadThreads: 0 },
  ]) {
    assert.throws(() => HostDevice.open({ ...good, ...bad }), UsageError);
  }
});
