import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LayoutCache } from '../../../src/actors/rank/layout-cache.ts';
import { encodeManifest } from '../../../src/checkpoint/manifest.ts';
import type { Plan } from '../../../src/plan/plan.ts';
import { manifestOf, segmentOf } from '../../plan/manifests.ts';

const manifest = encodeManifest(
  manifestOf([{ name: 't', bytes: 8, segment: 0, offset: 0 }], [segmentOf(0, 'a')]),
);
const planOf = (digest: string) => ({ digest }) as Plan;

test('the least recently used manifest and plan are evicted', () => {
  const cache = new LayoutCache();
  const sent = (name: string) =>
    cache.use({ layout: `L${name}`, manifest, planDigest: `P${name}`, plan: planOf(`P${name}`) });
  for (const name of ['1', '2', '3', '4']) assert.equal(sent(name).plan?.digest, `P${name}`);
  const again = cache.use({ layout: 'L1', manifest: null, planDigest: 'P1', plan: null });
  assert.equal(again.manifest?.names[0], 't');
  assert.equal(again.plan?.digest, 'P1');
  sent('5');
  assert.deepEqual(cache.layouts.sort(), ['L1', 'L3', 'L4', 'L5']);
  assert.deepEqual(cache.planDigests.sort(), ['P1', 'P3', 'P4', 'P5']);
});

test('a plan that is not cached, or has another digest than announced, is not returned', () => {
  const cache = new LayoutCache();
  const unknown = cache.use({ layout: 'L', manifest: null, planDigest: 'P', plan: null });
  assert.deepEqual(unknown, { manifest: undefined, plan: undefined });
  assert.equal(cache.use({ layout: 'L', manifest, planDigest: 'P', plan: planOf('Q') }).plan, undefined);
  assert.deepEqual(cache.planDigests, []);
});
