import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { NativeError } from '../../src/errors.ts';
import { join, joinAll } from './broadcasts.ts';
import { TestHost } from './harness.ts';

/** More than the control file has room for at one time, and no multiple of it. */
const many = 35;

test('many broadcasts from changing roots reach every rank of a process as they were sent', async (t) => {
  const host = new TestHost(t);
  const members = await joinAll(t, host, [0, 1, 2, 3], 4);
  await Promise.all(members.map((member) => member.takeTurns(4, many)));
});

test('ranks in four processes receive what each of them sends', async (t) => {
  const host = new TestHost(t);
  const programs = [0, 1, 2, 3].map((rank) =>
    host.start('broadcast-rank', host.controlPath(), rank, 4, many),
  );
  const reports = await Promise.all(programs.map((program) => program.message<{ wrong: string | null }>()));
  assert.deepEqual(
    reports,
    Array.from({ length: 4 }, () => ({ wrong: null })),
  );
});

test('a rank alone broadcasts to itself', async (t) => {
  const host = new TestHost(t);
  const member = await join(t, host, 0, 1);
  await member.takeTurns(1, many);
});

test('all broadcasts may be issued before the first one ends', async (t) => {
  const host = new TestHost(t);
  const members = await joinAll(t, host, [0, 1], 2);
  // Even numbers all come from the same staging buffer, so each holds what was written last.
  const issued = Array.from({ length: many }, (_, number) =>
    members.map((member) => member.broadcast(number, 0)),
  );
  const intervals = await Promise.all(issued.map(([own]) => own!));
  await Promise.all(issued.flat());
  for (const [index, interval] of intervals.entries()) {
    assert(interval.startedAt <= interval.endedAt);
    if (index > 0)
      assert(intervals[index - 1]!.endedAt <= interval.startedAt, 'they run in the order of issue');
  }
});

test('a rank that comes late is waited for', async (t) => {
  const host = new TestHost(t);
  const first = await join(t, host, 0, 2);
  const sent = first.broadcast(0, 0);
  await new Promise((resolve) => setTimeout(resolve, 250));
  const second = await join(t, host, 1, 2);
  await Promise.all([sent, second.broadcast(0, 0)]);
  second.check(0);
});

test('a rank that has done its part and left is not missed by the others', async (t) => {
  const host = new TestHost(t);
  const [root, early, late] = await joinAll(t, host, [0, 1, 2], 3);
  const sent = root!.broadcast(0, 0);
  await early!.broadcast(0, 0);
  early!.collective.close();
  await new Promise((resolve) => setTimeout(resolve, 250));
  await Promise.all([sent, late!.broadcast(0, 0)]);
  late!.check(0);
});

test('a broadcast of no bytes joins the ranks', async (t) => {
  const host = new TestHost(t);
  const members = await joinAll(t, host, [0, 1], 2);
  await Promise.all(
    members.map(({ collective, link, rank }) => {
      const place = { buffer: link, offset: 0 };
      const source = rank === 1 ? place : null;
      return collective.broadcast({
        root: 1,
        source,
        destination: place,
        bytes: 0,
        letsGo: false,
        timeoutMilliseconds: 20_000,
      });
    }),
  );
});

test('the control file goes when a collective is closed', async (t) => {
  const host = new TestHost(t);
  const members = await joinAll(t, host, [0, 1], 2);
  assert(existsSync(host.controlPath()));
  members[0]!.collective.close();
  members[0]!.collective.close();
  assert(!existsSync(host.controlPath()));
  members[1]!.collective.close();
});

test('ranks that disagree about a collective, or join it twice, are refused', async (t) => {
  const host = new TestHost(t);
  await join(t, host, 0, 2);
  await assert.rejects(join(t, host, 1, 3), { name: 'NativeError', message: /is for 2 ranks, not 3/ });
  await assert.rejects(join(t, host, 0, 2), { name: 'NativeError', message: /rank 0 has joined/ });
  await assert.rejects(join(t, host, 2, 2), NativeError);
});
