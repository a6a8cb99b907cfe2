import assert from 'node:assert/strict';
import { test } from 'node:test';
import { patience } from '../patience.ts';
import { contentOf, run, segmentBytes, TestCluster } from './fabrics.ts';

// Names are the business of whoever makes an address: no process looks one up in the middle of an update.

for (const option of ['advertisedAddresses', 'listenAddresses'] as const) {
  test(`the name of a host in ${option} is refused, with the option and the name`, (t) => {
    const cluster = new TestCluster(t);
    assert.throws(() => cluster.fabric({ [option]: ['127.0.0.1', 'node-2'] }), {
      name: 'NativeError',
      message: `${option} must be numeric IP addresses, not 'node-2'`,
    });
  });
}

test('an address that names a host is an error of that connection, and the fabric goes on', async (t) => {
  const cluster = new TestCluster(t);
  const source = cluster.fabric({ advertisedAddresses: ['127.0.0.1'] });
  const exposure = await source.expose(cluster.segment(1));
  const reader = cluster.fabric();
  // As another version, or another program, may have written it.
  const named = Buffer.from(source.address);
  named.write('node-1234', named.indexOf('127.0.0.1'));
  for (const kind of ['tcp', undefined] as const) {
    await assert.rejects(reader.connect(named, { name: 'rank 7', timeoutMilliseconds: patience, kind }), {
      name: 'NativeError',
      message: "the address of a fabric names the host 'node-1234', which is not a numeric IP address",
    });
  }
  const destination = cluster.memory();
  const peer = await cluster.connect(reader, source.address, { kind: 'tcp' });
  await peer.read(exposure.token, run(segmentBytes), destination, { timeoutMilliseconds: patience });
  assert(destination.read(0, segmentBytes).equals(contentOf(1, segmentBytes)));
});

test('a peer is reached over IPv6, by an address with its interface too', async (t) => {
  const cluster = new TestCluster(t);
  const reader = cluster.fabric();
  for (const advertised of ['::1', '::1%lo', '::1%1']) {
    const source = cluster.fabric({ listenAddresses: ['::1'], advertisedAddresses: [advertised] });
    const exposure = await source.expose(cluster.segment(1));
    const destination = cluster.memory();
    const peer = await cluster.connect(reader, source.address, { kind: 'tcp' });
    await peer.read(exposure.token, run(segmentBytes), destination, { timeoutMilliseconds: patience });
    assert(destination.read(0, segmentBytes).equals(contentOf(1, segmentBytes)), advertised);
  }
  const nowhere = cluster.fabric({ advertisedAddresses: ['fe80::1%nope'] });
  await assert.rejects(cluster.connect(reader, nowhere.address, { kind: 'tcp' }), {
    name: 'NativeError',
    message: 'this host has no network interface nope, which the address fe80::1%nope names',
  });
  assert.throws(() => cluster.fabric({ advertisedAddresses: ['fe80::1%'] }), /must be numeric IP addresses/);
});

test('a peer that is read over TCP says why, unless TCP was asked for', async (t) => {
  const cluster = new TestCluster(t);
  const source = cluster.fabric({ advertisedAddresses: ['127.0.0.1'], rdmaPorts: [] });
  const reader = cluster.fabric({ rdmaPorts: [] });
  // As if it came from another host: byte 17 is of the boot id.
  const elsewhere = Uint8Array.from(source.address, (byte, at) => (at === 17 ? byte ^ 0xff : byte));
  const peer = await cluster.connect(reader, elsewhere);
  assert.deepEqual([peer.kind, peer.whyNotRdma], ['tcp', 'this process uses no RDMA port']);
  const asked = await cluster.connect(reader, elsewhere, { kind: 'tcp' });
  assert.deepEqual([asked.kind, asked.whyNotRdma], ['tcp', null]);
  const local = await cluster.connect(reader, source.address);
  assert.deepEqual([local.kind, local.whyNotRdma], ['shm', null]);
});
