import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PlanCache } from '../../src/plan/plan-cache.ts';
import { manifestOf, segmentOf } from './manifests.ts';

const rows = Array.from({ length: 100 }, (_, row) => ({
  name: `t${row}`,
  bytes: 10_240,
  segment: 0,
  offset: row * 10_240,
}));
const manifest = manifestOf(rows, [segmentOf(0, 'a')]);
const input = (
  freeBytes: number,
  overrides: { layout?: string; ranks?: number[]; bucketBytes?: number } = {},
) => ({
  manifest,
  layout: overrides.layout ?? 'layout',
  ranks: (overrides.ranks ?? [0, 1]).map((rank) => ({ rank, host: 'a', freeBytes })),
  fraction: 0.9,
  bucketBytes: overrides.bucketBytes ?? 2 ** 25,
});

test('a little more or less free memory gives the very same plan', () => {
  const cache = new PlanCache();
  const plan = cache.plan(input(10_000_000));
  assert.equal(cache.plan(input(9_990_000)), plan);
  assert.equal(cache.plan(input(2 ** 40)), plan);
});

test('where memory is tight, a kept plan serves as long as it fits and is at least half as good', () => {
  const cache = new PlanCache();
  const plan = cache.plan(input(400_000));
  assert.equal(plan.slotBytes, 119_808);
  assert.equal(cache.plan(input(410_000)), plan, 'a little more');
  assert.equal(cache.plan(input(790_000)), plan, 'nearly twice as much');
  assert.notEqual(cache.plan(input(810_000)), plan, 'more than twice as much');
});

test('a plan whose slots no longer fit is replaced', () => {
  const cache = new PlanCache();
  const plan = cache.plan(input(400_000));
  const smaller = cache.plan(input(399_000));
  assert.notEqual(smaller, plan);
  assert.ok(smaller.slotBytes * 3 <= 399_000 * 0.9);
});

test('a plan in the wrong mode is replaced, in both directions', () => {
  const cache = new PlanCache();
  const modes = [400_000, 30_000, 400_000].map((free) => cache.plan(input(free)).mode);
  assert.deepEqual(modes, ['pipelined', 'serial', 'pipelined']);
});

test('another layout, other ranks and another bucket size have plans of their own', () => {
  const cache = new PlanCache();
  const inputs = [input(2 ** 30), input(2 ** 30, { layout: 'b' }), input(2 ** 30, { ranks: [0] })];
  inputs.push(input(2 ** 30, { bucketBytes: 20_480 }));
  const plans = inputs.map((one) => cache.plan(one));
  assert.equal(new Set(plans).size, 4);
  assert.deepEqual(
    inputs.map((one) => cache.plan(one)),
    plans,
    'and all are kept',
  );
});

test('the cache does not grow: the plan not used for longest goes', () => {
  const cache = new PlanCache(2);
  const of = (layout: string) => cache.plan(input(2 ** 30, { layout }));
  const [a, b] = [of('a'), of('b')];
  assert.equal(of('a'), a);
  const c = of('c');
  assert.equal(of('a'), a);
  assert.equal(of('c'), c);
  assert.notEqual(of('b'), b, 'it was dropped, and is planned again');
});

test('a forgotten layout leaves no plan', () => {
  const cache = new PlanCache();
  const plan = cache.plan(input(2 ** 30));
  cache.forget('other');
  assert.equal(cache.plan(input(2 ** 30)), plan);
  cache.forget('layout');
  assert.notEqual(cache.plan(input(2 ** 30)), plan);
});

test('a failure to plan keeps nothing and disturbs nothing', () => {
  const cache = new PlanCache();
  const plan = cache.plan(input(2 ** 30));
  assert.throws(() => cache.plan(input(100)), { code: 'WEIGHTCAST_MEMORY' });
  assert.equal(cache.plan(input(2 ** 30)), plan);
});
