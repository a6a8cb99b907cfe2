import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AbortedError, NativeError } from '../../src/errors.ts';
import { armNativeFault } from '../../src/native-bridge/native-faults.ts';
import { stateOf } from '../../src/processes/is-running.ts';
import { patience } from '../patience.ts';
import { joinAll } from './broadcasts.ts';
import { kinds } from './fabric-kinds.ts';
import { contentOf, run, segmentBytes, TestCluster, until } from './fabrics.ts';
import { TestHost } from './harness.ts';

const bytes = 1 << 20;
const rectangles = Float64Array.of(0, 0, bytes, 1, bytes, bytes);
const noMemory = (point: string) => ({
  name: 'NativeError',
  message: `${point}:refuse, on purpose: Cannot allocate memory`,
});

test('an upload for which there is no memory, on purpose, fails once', async (t) => {
  const cluster = new TestCluster(t);
  const device = cluster.host.device();
  const buffer = device.allocate(bytes);
  const segment = cluster.segment(1, bytes);
  armNativeFault('native-upload', 'refuse', 0);
  await assert.rejects(device.upload([{ segment, rectangles }], buffer), noMemory('native-upload'));
  await device.upload([{ segment, rectangles }], buffer);
  assert(buffer.mapping.read(0, bytes).equals(contentOf(1, bytes)));
});

test('an upload that is late on purpose arrives all the same', async (t) => {
  const cluster = new TestCluster(t);
  const device = cluster.host.device();
  const buffer = device.allocate(bytes);
  const segment = cluster.segment(1, bytes);
  armNativeFault('native-upload', 'delay', 60);
  const { startedAt, endedAt } = await device.upload([{ segment, rectangles }], buffer);
  assert(endedAt - startedAt >= 60, `${endedAt - startedAt} ms`);
  assert(buffer.mapping.read(0, bytes).equals(contentOf(1, bytes)));
});

for (const kind of kinds) {
  test(`a read over ${kind} fails amid its bytes, and the next one succeeds`, async (t) => {
    const cluster = new TestCluster(t);
    const source = await cluster.source();
    const peer = await cluster.connect(cluster.fabric(), source.address, { kind });
    const destination = cluster.memory();
    const options = { timeoutMilliseconds: patience };
    const read = () => peer.read(source.token, run(segmentBytes), destination, options);
    armNativeFault('native-read', 'refuse', 0);
    await assert.rejects(read(), noMemory('native-read'));
    await read();
    assert(destination.read(0, segmentBytes).equals(contentOf(1, segmentBytes)));
  });
}

test('a broadcast that one rank has no memory for ends for all', async (t) => {
  const members = await joinAll(t, new TestHost(t), [0, 1], 2);
  armNativeFault('native-broadcast', 'refuse', 0);
  const ends = await Promise.allSettled(members.map((member) => member.broadcast(0, 0)));
  const reasons = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason] : []));
  assert(reasons.some((reason) => reason instanceof NativeError && /on purpose/.test(reason.message)));
  assert(reasons.every((reason) => reason instanceof NativeError || reason instanceof AbortedError));
});

test('a process can be made to die, and to stop, amid an upload', async (t) => {
  const dying = new TestHost(t).start('native-fault', 'crash');
  assert.equal(await dying.message(), 'armed');
  assert.equal(await dying.ended(), null);

  const stopping = new TestHost(t).start('native-fault', 'stop');
  assert.equal(await stopping.message(), 'armed');
  await until(() => stateOf(stopping.pid) === 'T');
  stopping.signal('SIGCONT');
  assert.equal(await stopping.message(), 'uploaded');
  assert.equal(await stopping.ended(), 0);
});

test('there are no other points and actions', () => {
  assert.throws(
    () => armNativeFault('native-nothing' as 'native-pin', 'crash', 0),
    /there is no fault point/,
  );
  assert.throws(() => armNativeFault('native-pin', 'corrupt', 0), /there is no fault corrupt/);
});
