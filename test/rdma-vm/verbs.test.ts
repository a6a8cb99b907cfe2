import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { type FabricOptions, HostFabric, listRdmaPorts } from '../../src/native-bridge/fabric.ts';
import { ThreadPool } from '../../src/native-bridge/memory.ts';
import { selectNics } from '../../src/plan/nic-selection.ts';
import { contentOf, rdmaPorts, run, segmentBytes, TestCluster, until } from '../native/fabrics.ts';
import { patience } from '../patience.ts';

/** For a machine with the devices rxe0 and rxe1 on the interfaces rail0 and rail1, and this process its root. */

const options = { timeoutMilliseconds: patience };
const port = (device: string) => ({ device, port: 1 });

/** The address as if it came from another host, to which shared memory is no way. */
function elsewhere(address: Uint8Array): Uint8Array {
  const moved = Uint8Array.from(address);
  // Of the boot id that follows the version and the fabric's id.
  moved[17]! ^= 0xff;
  return moved;
}

/** What this machine's processes hold of its RDMA devices: queue pairs, registrations and so on. */
function resources(): Record<string, number>[] {
  return JSON.parse(execFileSync('rdma', ['-j', 'resource', 'show'], { encoding: 'utf8' }));
}

const received = (device: string) =>
  Number(readFileSync(`/sys/class/infiniband/${device}/ports/1/hw_counters/rcvd_pkts`, 'utf8'));

test('between hosts that have RDMA it is chosen by itself', async (t) => {
  const cluster = new TestCluster(t);
  const source = await cluster.source();
  const peer = await cluster.connect(cluster.fabric(), elsewhere(source.address));
  assert.deepEqual([peer.kind, peer.whyNotRdma], ['verbs', null]);
});

test('connections with all of their parameters set carry the bytes', async (t) => {
  const cluster = new TestCluster(t);
  const verbs = {
    trafficClass: 106,
    serviceLevel: 3,
    pkeyIndex: 0,
    timeout: 15,
    retries: 3,
    relaxedOrdering: true,
  };
  const [source, reader] = [cluster.fabric({ verbs }), cluster.fabric({ verbs })];
  const exposure = await source.expose(cluster.segment(6));
  const destination = cluster.memory();
  const peer = await cluster.connect(reader, source.address, { kind: 'verbs' });
  await peer.read(exposure.token, run(segmentBytes), destination, options);
  assert(destination.read(0, segmentBytes).equals(contentOf(6, segmentBytes)));
});

test('a path that does not answer is given up for TCP long before the card gives it up', async (t) => {
  const cluster = new TestCluster(t);
  const verbs = { timeout: 22, retries: 7 };
  const source = cluster.fabric({ rdmaPorts: [port('rxe0')], verbs });
  const reader = cluster.fabric({ rdmaPorts: [port('rxe1')], verbs });
  const peer = await cluster.connect(reader, elsewhere(source.address), { timeoutMilliseconds: 60_000 });
  assert.equal(peer.kind, 'tcp');
  assert.match(
    peer.whyNotRdma!,
    /^its memory cannot be read over RDMA: a read of one word took longer than 5000 ms$/,
  );
});

test('one read goes over both devices, and every byte is right', async (t) => {
  const cluster = new TestCluster(t);
  const source = await cluster.source();
  const peer = await cluster.connect(cluster.fabric(), source.address, { kind: 'verbs' });
  const destination = cluster.memory();
  const before = ['rxe0', 'rxe1'].map(received);
  await peer.read(source.token, run(segmentBytes), destination, options);
  const packets = ['rxe0', 'rxe1'].map((device, index) => received(device) - before[index]!);
  assert(destination.read(0, segmentBytes).equals(contentOf(1, segmentBytes)));
  const all = segmentBytes / 4096;
  for (const count of packets) assert(count > all / 8, `${packets.join(' and ')} packets of about ${all}`);
});

test('two devices on one side read through the one on the other', async (t) => {
  const cluster = new TestCluster(t);
  const [one, both] = [cluster.fabric({ rdmaPorts: [port('rxe0')] }), cluster.fabric()];
  for (const [source, reader] of [
    [one, both],
    [both, one],
  ] as const) {
    const exposure = await source.expose(cluster.segment(3));
    const destination = cluster.memory();
    const peer = await cluster.connect(reader, source.address, { kind: 'verbs' });
    await peer.read(exposure.token, run(segmentBytes), destination, options);
    assert(destination.read(0, segmentBytes).equals(contentOf(3, segmentBytes)));
  }
});

test('a source that is stopped, its native threads too, is read all the same', async (t) => {
  const cluster = new TestCluster(t);
  const source = await cluster.source();
  const peer = await cluster.connect(cluster.fabric(), source.address, { kind: 'verbs' });
  const destination = cluster.memory();
  await peer.read(source.token, run(1), destination, options);
  source.program.signal('SIGSTOP');
  await new Promise((resolve) => setTimeout(resolve, 200));
  await peer.read(source.token, run(segmentBytes), destination, options);
  assert(destination.read(0, segmentBytes).equals(contentOf(1, segmentBytes)));
});

test('devices that do not reach each other are found out, and streams carry the bytes', async (t) => {
  const cluster = new TestCluster(t);
  const source = cluster.fabric({ rdmaPorts: [port('rxe0')] });
  const reader = cluster.fabric({ rdmaPorts: [port('rxe1')] });
  const exposure = await source.expose(cluster.segment(4));
  await assert.rejects(
    reader.connect(source.address, { name: 'rank 7', timeoutMilliseconds: patience, kind: 'verbs' }),
    {
      name: 'NativeError',
      message:
        /^there is no RDMA to rank 7: its memory cannot be read over RDMA: (rxe1:1 reports: transport retry counter exceeded|a read of one word took longer)/,
    },
  );
  const peer = await cluster.connect(reader, elsewhere(source.address));
  assert.equal(peer.kind, 'tcp');
  assert.match(
    peer.whyNotRdma!,
    /^its memory cannot be read over RDMA: (rxe1:1 reports: transport retry counter|a read of one word took longer)/,
  );
  const destination = cluster.memory();
  await peer.read(exposure.token, run(segmentBytes), destination, options);
  assert(destination.read(0, segmentBytes).equals(contentOf(4, segmentBytes)));
});

test('everything that a fabric holds of the devices is given back', async (t) => {
  const cluster = new TestCluster(t);
  const before = resources();
  for (let round = 0; round < 2; round += 1) {
    const [source, reader] = [cluster.fabric(), cluster.fabric()];
    const exposure = await source.expose(cluster.segment(5, 1 << 20));
    const destination = cluster.memory(1 << 20);
    const peer = await cluster.connect(reader, source.address, { kind: 'verbs' });
    const open = resources();
    for (let count = 0; count < 3; count += 1)
      await peer.read(exposure.token, run(1 << 20), destination, options);
    const registrations = resources().map(({ mr }, index) => mr! - open[index]!.mr!);
    assert.deepEqual(
      registrations,
      [1, 1],
      'the destination once with each device, however often it is read into',
    );
    destination.close();
    await until(() => resources().every(({ mr }, index) => mr === open[index]!.mr));
    peer.close();
    await exposure.close();
    reader.close();
    source.close();
    await until(() => JSON.stringify(resources()) === JSON.stringify(before));
  }
});

test('a segment larger than what may be locked is refused with what to raise', async (t) => {
  const cluster = new TestCluster(t);
  const program = cluster.host.start('memory-locker', cluster.secret.toString('hex'), 1 << 20);
  const message = await program.message<string>();
  assert.match(
    message,
    /^NativeError: cannot register \/dev\/shm\/\S+ \(1 MiB\) with rxe0:1; this process may lock 256 KiB of memory: raise `ulimit -l` .*: Cannot allocate memory$/,
  );
});

test('a port whose link is down is passed over, and refused by its name', async (t) => {
  execFileSync('ip', ['link', 'set', 'rail1', 'down']);
  t.after(() => execFileSync('ip', ['link', 'set', 'rail1', 'up']));
  await until(() => listRdmaPorts().ports.some(({ isActive }) => !isActive));
  assert.deepEqual(
    selectNics(listRdmaPorts().ports, {}).ports.map(({ device }) => device),
    ['rxe0'],
  );
  const pool = new ThreadPool(1);
  t.after(() => pool.close());
  const open = (device: string, verbs: FabricOptions['verbs'] = {}) =>
    HostFabric.open({ secret: Buffer.alloc(32), pool, rdmaPorts: [port(device)], verbs });
  assert.throws(() => open('rxe1'), { name: 'NativeError', message: 'the RDMA port rxe1:1 is not active' });
  assert.throws(() => open('mlx5_0'), { message: 'there is no RDMA device mlx5_0' });
  assert.throws(() => open('rxe0', { gidIndex: 200 }), {
    message: 'GID 200 of the RDMA port rxe0:1 is not set',
  });
  assert.throws(() => open('rxe0', { pkeyIndex: 9 }), {
    message: 'the RDMA port rxe0:1 has 1 partition keys, none at index 9',
  });
  assert.equal(rdmaPorts().length, 1);
});
