import assert from 'node:assert/strict';
import { test } from 'node:test';
import { added, addedByPhase } from '../../bench/engines/measured-pause.ts';
import { spansIn, union } from '../../bench/engines/spans.ts';
import type { UpdateReport } from '../../src/index.ts';

test('the time in which anything was under way counts each moment once, and none outside', () => {
  const spans = [
    [30, 40],
    [-5, 10],
    [5, 15],
    [6, 7],
    [90, 120],
  ] as const;
  assert.equal(union(spans, [0, 100]), 15 + 10 + 10);
  assert.equal(union([], [0, 100]), 0);
  assert.equal(union([[200, 300]], [0, 100]), 0);
  assert.equal(union([[-10, 300]], [0, 100]), 100);
});

test('what is added to a pause is the sum of what is added in each of its phases', () => {
  const one = {
    report: {} as UpdateReport,
    pause: { span: [0, 100], calls: [[5, 90]] },
    link: [[2, 20]],
    update: [[10, 80]],
    load: [
      [30, 40],
      [50, 60],
    ],
    proof: [],
  } as const;
  assert.equal(added(one), 100 - 18 - 20);
  assert.deepEqual(Object.values(addedByPhase(one)), [2, 0, 10, 10, 20, 10, 10]);
});

test('spans of a timeline come without their buckets', () => {
  assert.deepEqual(spansIn(Float64Array.of(0, 1, 2, 1, 3, 5)), [
    [1, 2],
    [3, 5],
  ]);
});
