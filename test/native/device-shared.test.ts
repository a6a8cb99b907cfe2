import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { openDeviceMemory } from '../../src/native-bridge/host-device.ts';
import { TestHost } from './harness.ts';

const capacity = 1 << 20;
const held = 1 << 18;

interface Holding {
  readonly ipcHandle: number[];
  readonly free: number;
}

test('processes share the memory of a device and open what another one has allocated', async (t) => {
  const host = new TestHost(t);
  const device = host.device({ capacity });
  const own = device.allocate(held);
  const holding = await host.start('device-holder', 0, held, 'stay').message<Holding>();
  assert.equal(holding.free, capacity - 2 * held);
  assert.equal(device.memory().free, capacity - 2 * held);
  assert.equal(openDeviceMemory(Uint8Array.from(holding.ipcHandle)).read(0, 1)[0], 7);
  assert.throws(() => device.allocate(capacity - held), { name: 'OutOfDeviceMemoryError' });
  own.free();
});

test('what a killed process held is free again when anyone next looks', async (t) => {
  const host = new TestHost(t);
  const device = host.device({ capacity });
  const holder = host.start('device-holder', 0, held, 'stay');
  const { ipcHandle } = await holder.message<Holding>();
  const path = Buffer.from(ipcHandle).toString();
  assert(existsSync(path));
  await holder.kill();
  device.allocate(capacity).free();
  assert.equal(device.memory().free, capacity);
  assert(!existsSync(path), 'the memory itself is gone, not only its entry');
});

test('a device outlives the process that made it and goes with the last one', async (t) => {
  const host = new TestHost(t);
  const maker = host.start('device-holder', capacity, held, 'stay');
  await maker.message();
  const device = host.device({ capacity: 0 });
  await maker.kill();
  assert.deepEqual(device.memory(), { free: capacity, total: capacity });
  device.close();
  assert.deepEqual(host.remains(), []);
});

test('a process that exits without closing its device leaves nothing in /dev/shm', async (t) => {
  const host = new TestHost(t);
  const holder = host.start('device-holder', capacity, held, 'exit');
  await holder.message();
  assert.equal(await holder.ended(), 0);
  assert.deepEqual(host.remains(), []);
});

test('what a killed last process left does not bind the capacity of the next device', async (t) => {
  const host = new TestHost(t);
  const holder = host.start('device-holder', capacity, held, 'stay');
  await holder.message();
  await holder.kill();
  const device = host.device({ capacity: 2 * capacity });
  assert.deepEqual(device.memory(), { free: 2 * capacity, total: 2 * capacity });
});
