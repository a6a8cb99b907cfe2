import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { RankTimeline } from '../../src/actors/protocol/update-values.ts';
import { chromeTrace, drawTimeline, overlap, stageSeconds } from '../../src/observe/timeline.ts';

type Span = readonly [bucket: number, start: number, end: number];

function timeline(
  rank: number,
  spans: Partial<Record<'read' | 'h2d' | 'broadcast' | 'reload', Span[]>>,
): RankTimeline {
  const column = (list: Span[] = []) => Float64Array.from(list.flat());
  const { read, h2d, broadcast, reload } = spans;
  const columns = {
    read: column(read),
    h2d: column(h2d),
    broadcast: column(broadcast),
    reload: column(reload),
  };
  return { rank, ...columns, serialFrom: null };
}

/** Uploads from 1000 to 1040 ms, reloads from 1020 to 1060: both stages are busy for a third of the time. */
const pipelined = timeline(0, {
  h2d: [
    [0, 1000, 1020],
    [1, 1020, 1040],
  ],
  reload: [
    [0, 1020, 1040],
    [1, 1040, 1060],
  ],
});

test('stage seconds are the sum of the spans over all ranks', () => {
  assert.deepEqual(stageSeconds([pipelined, pipelined]), { h2d: 0.08, broadcast: 0, reload: 0.08 });
});

test('overlap is the fraction of the time in which a rank had two busy stages; a serial update has none', () => {
  assert.ok(Math.abs(overlap([pipelined]) - 1 / 3) < 1e-9);
  const serial = timeline(1, { h2d: [[0, 0, 10]], broadcast: [[0, 10, 20]], reload: [[0, 20, 30]] });
  assert.equal(overlap([serial]), 0);
  assert.equal(overlap([]), 0);
  assert.equal(overlap([timeline(2, {})]), 0);
});

test('the text timeline fills the columns in which a stage was busy and has the requested width', () => {
  const [h2d, broadcast, reload, scale] = drawTimeline([pipelined], 60).split('\n');
  assert.equal(h2d, `rank 0   h2d       ${'█'.repeat(40)}${' '.repeat(20)}`);
  assert.equal(broadcast, `         broadcast ${' '.repeat(60)}`);
  assert.equal(reload, `         reload    ${' '.repeat(20)}${'█'.repeat(40)}`);
  assert.match(scale!, /^ {19}0 +60 ms$/);
});

test('reads from other hosts get their own row if there are any', () => {
  const joiner = timeline(3, { read: [[7, 0, 10]], h2d: [[0, 10, 20]] });
  assert.equal(
    drawTimeline([joiner], 20).split('\n')[0],
    `rank 3   read      ${'█'.repeat(10)}${' '.repeat(10)}`,
  );
  const events = chromeTrace([joiner]) as {
    ph: string;
    name: string;
    cat?: string;
    ts?: number;
    dur?: number;
  }[];
  const complete = events
    .filter(({ ph }) => ph === 'X')
    .map(({ name, cat, ts, dur }) => [name, cat, ts, dur]);
  assert.deepEqual(complete, [
    ['piece 7', 'read', 0, 10_000],
    ['bucket 0', 'h2d', 10_000, 10_000],
  ]);
});

test('where device memory ran short is seen in the trace and in the text', () => {
  const short = { ...pipelined, serialFrom: { rank: 0, bucket: 1, at: 1_030 } };
  const instants = (chromeTrace([pipelined, short]) as { ph: string; name: string; ts: number }[])
    .filter(({ ph }) => ph === 'i')
    .map(({ name, ts }) => [name, ts]);
  assert.deepEqual(instants, [['device memory ran short: serial from bucket 1 on', 30_000]]);
  assert.match(drawTimeline([short], 60), /^rank 0 .* serial from bucket 1 on$/m);
});

test('a trace names ranks and stages, and its times start at the first event', () => {
  const events = chromeTrace([pipelined]) as { ph: string; ts?: number; args: { name?: string } }[];
  const names = events.filter(({ ph }) => ph === 'M').map(({ args }) => args.name);
  assert.deepEqual(names, ['rank 0', 'h2d', 'broadcast', 'reload']);
  assert.equal(Math.min(...events.flatMap(({ ts }) => ts ?? [])), 0);
});
