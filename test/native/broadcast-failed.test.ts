import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AbortedError, NativeError } from '../../src/errors.ts';
import { join, joinAll, type Member } from './broadcasts.ts';
import { type Program, TestHost } from './harness.ts';

test('abort on one rank ends what is in flight on every rank, and all that comes later', async (t) => {
  const host = new TestHost(t);
  const members = await joinAll(t, host, [0, 1, 2], 3);
  // Rank 2 keeps the others waiting.
  const waiting = [0, 1].flatMap((number) => [
    members[0]!.broadcast(number, 0),
    members[1]!.broadcast(number, 0),
  ]);
  const rejected = Promise.allSettled(waiting);
  members[1]!.collective.abort();
  const results = await rejected;
  // Rank 1 may have had its copy of the first one before it aborted.
  for (const index of [0, 2, 3]) {
    const result = results[index]!;
    assert(result.status === 'rejected' && result.reason instanceof AbortedError);
    assert.match(result.reason.message, /aborted by rank 1/);
  }
  await assert.rejects(members[2]!.broadcast(0, 0), AbortedError);
  members[1]!.collective.abort();
});

test('a deadline ends the wait for a rank that never joins, and names it', async (t) => {
  const host = new TestHost(t);
  const root = await join(t, host, 0, 2);
  await assert.rejects(root.broadcast(0, 0, 50), {
    name: 'DeadlineError',
    message: /rank 0 waited for rank 1/,
  });
  // Rank 1 missed an operation: it must not take part in the next one as if nothing had been.
  const late = await join(t, host, 1, 2);
  await assert.rejects(late.broadcast(1, 0), { name: 'DeadlineError' });
});

test('a deadline ends the wait of a receiver for its root', async (t) => {
  const host = new TestHost(t);
  const [, receiver] = await joinAll(t, host, [0, 1], 2);
  await assert.rejects(receiver!.broadcast(0, 0, 50), {
    name: 'DeadlineError',
    message: /waited for rank 0/,
  });
});

test('when the root is killed, all others are told which rank is lost', async (t) => {
  const host = new TestHost(t);
  const members = await joinAll(t, host, [0, 1], 3);
  const victim = await takeTwoTurns(host, members);
  // The deadline of a broadcast is far off and would be another error.
  const waiting = members.map((member) =>
    assert.rejects(member.broadcast(2, 2), { name: 'PeerLostError', message: /rank 2 is gone/ }),
  );
  await victim.kill();
  await Promise.all(waiting);
});

test('when a receiver is killed, the root is told which rank is lost, and so is all that comes later', async (t) => {
  const host = new TestHost(t);
  const members = await joinAll(t, host, [0, 1], 3);
  const victim = await takeTwoTurns(host, members);
  const lost = { name: 'PeerLostError', message: /rank 2 is gone/ };
  const sent = assert.rejects(members[0]!.broadcast(2, 0), lost);
  await members[1]!.broadcast(2, 0);
  await victim.kill();
  await sent;
  await assert.rejects(members[1]!.broadcast(3, 1), lost);
});

/** Ranks 0 and 1 do two broadcasts together with rank 2 in another process, which then stays idle. */
async function takeTwoTurns(host: TestHost, members: readonly Member[]): Promise<Program> {
  const program = host.start('broadcast-rank', host.controlPath(), 2, 3, 2);
  const turns = members.map((member) => member.takeTurns(3, 2));
  const [report] = await Promise.all([program.message(), ...turns]);
  assert.deepEqual(report, { wrong: null });
  return program;
}

test('a rank that leaves without its part of a broadcast is lost to the others', async (t) => {
  const host = new TestHost(t);
  const [root, leaver] = await joinAll(t, host, [0, 1], 2);
  const sent = root!.broadcast(0, 0);
  leaver!.collective.close();
  await assert.rejects(sent, { name: 'PeerLostError', message: /rank 1 is gone/ });
});

test('closing a collective with a broadcast in flight aborts it here and elsewhere', async (t) => {
  const host = new TestHost(t);
  const [root, receiver] = await joinAll(t, host, [0, 1, 2], 3);
  const sent = assert.rejects(root!.broadcast(0, 0), AbortedError);
  await receiver!.broadcast(0, 0);
  const next = assert.rejects(receiver!.broadcast(1, 0), AbortedError);
  root!.collective.close();
  await Promise.all([sent, next]);
});

test('ranks that issue different broadcasts are told so instead of receiving the wrong bytes', async (t) => {
  const host = new TestHost(t);
  const [first, second] = await joinAll(t, host, [0, 1], 2);
  const sent = assert.rejects(first!.broadcast(0, 0), AbortedError);
  const place = { buffer: second!.link, offset: 0 };
  const received = second!.collective.broadcast({
    root: 0,
    source: null,
    destination: place,
    bytes: 1,
    letsGo: false,
    timeoutMilliseconds: 20_000,
  });
  await assert.rejects(received, { name: 'NativeError', message: /of 1 bytes from root 0 on rank 1/ });
  await sent;
});

test('places outside their buffers are refused and disturb nobody', async (t) => {
  const host = new TestHost(t);
  const member = await join(t, host, 0, 1);
  const options = { root: 0, bytes: member.link.bytes, letsGo: false, timeoutMilliseconds: 20_000 };
  const whole = { buffer: member.link, offset: 0 };
  for (const [source, destination] of [
    [whole, { buffer: member.link, offset: 1 }],
    [{ buffer: member.staging, offset: 0 }, whole],
    [null, whole],
  ] as const) {
    await assert.rejects(member.collective.broadcast({ ...options, source, destination }), NativeError);
  }
  await member.broadcast(0, 0);
  member.check(0);
});

test('memory that is freed while a broadcast waits to fill it is kept until then', async (t) => {
  const host = new TestHost(t);
  const device = host.device({ index: 1 });
  const [root, receiver] = await joinAll(t, host, [0, 1], 2);
  const received = receiver!.broadcast(0, 0);
  const { free } = device.memory();
  receiver!.link.free();
  assert(device.memory().free > free);
  await Promise.all([root!.broadcast(0, 0), received]);
});

for (const ending of ['exit', 'throw', 'worker'] as const) {
  test(`an environment that ends by ${ending} in the middle of a broadcast aborts it`, async (t) => {
    const host = new TestHost(t);
    const root = await join(t, host, 0, 3);
    const program = host.start('unfinished-broadcast', host.controlPath(), ending);
    await program.message();
    await assert.rejects(root.broadcast(0, 0), { name: 'AbortedError', message: /aborted by rank 1/ });
    assert.equal(await program.ended(), ending === 'throw' ? 1 : 0);
  });
}
