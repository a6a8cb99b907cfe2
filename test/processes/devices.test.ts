import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { statfsSync } from 'node:fs';
import { test } from 'node:test';
import { HostDevice } from '../../src/native-bridge/host-device.ts';
import { openDevice } from '../../src/processes/devices.ts';

const place = { gpu: 0, threads: 1 };
const namespaced = () => ({ kind: 'host', namespace: `test-${randomBytes(6).toString('hex')}` }) as const;

test('a host device that nobody made is made, with half of the free shared memory', () => {
  const { bavail, bsize } = statfsSync('/dev/shm');
  const options = namespaced();
  const device = openDevice(options, 3, place);
  try {
    const { total } = device.memory();
    assert(total > 0 && total <= (bavail * bsize) / 2 + 2 ** 22, `${total} of ${bavail * bsize}`);
    assert.equal(device.uuid, `HOST-${options.namespace}-3`);
    const other = openDevice(options, 3, place);
    assert.equal(other.memory().total, total);
    other.close();
  } finally {
    device.close();
  }
});

test('a host device that an engine made is used with its capacity', () => {
  const options = namespaced();
  const made = HostDevice.open({
    namespace: options.namespace,
    index: 0,
    capacity: 2 ** 22,
    uploadThreads: 1,
  });
  try {
    const device = openDevice(options, 0, place);
    assert.equal(device.memory().total, 2 ** 22);
    device.close();
    assert.throws(() => openDevice({ ...options, capacity: 2 ** 23 }, 0, place), /has a capacity of 4 MiB/);
  } finally {
    made.close();
  }
});
