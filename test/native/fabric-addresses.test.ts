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
