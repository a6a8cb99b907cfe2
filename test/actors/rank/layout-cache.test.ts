import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LayoutCache } from '../../../src/actors/rank/layout-cache.ts';
import { encodeManifest } from '../../../src/checkpoint/manifest.ts';
import { planUpdate } from '../../../src/plan/buckets.ts';
import { encodePlan } from '../../../src/plan/plan-codec.ts';
import { manifestOf, segmentOf } from '../../plan/manifests.ts';

const registered = manifestOf([{ name: 't', bytes: 8, segment: 0, offset: 0 }], [segmentOf(0, 'a')]);
const manifest = encodeManifest(registered);
const ranks = [{ rank: 0, host: 'a', freeBytes: 2 ** 30 }];
/** Of the same tensors, with different layouts. */
const planOf = (layout: string) =>
  planUpdate({ manifest: registered, layout, ranks, fraction: 1, bucketBytes: 256 });
const digestOf = (layout: string) => planOf(layout).digest;
const checkpoint = { segments: registered.segments.map(({ path }) => path), expected: 'E' };

test('the least recently used manifest and plan are evicted', () => {
  const cache = new LayoutCache();
  const sent = (layout: string) =>
    cache.use({
      layout,
      manifest,
      planDigest: digestOf(layout),
      plan: encodePlan(planOf(layout)),
      ...checkpoint,
    });
  for (const layout of ['L1', 'L2', 'L3', 'L4']) assert.deepEqual(sent(layout).plan, planOf(layout));
  const again = cache.use({
    layout: 'L1',
    manifest: null,
    planDigest: digestOf('L1'),
    plan: null,
    ...checkpoint,
  });
  assert.equal(again.manifest?.names[0], 't');
  assert.equal(again.plan?.layout, 'L1');
  sent('L5');
  const kept = ['L1', 'L3', 'L4', 'L5'];
  assert.deepEqual(cache.layouts.sort(), kept);
  assert.deepEqual(cache.planDigests.sort(), kept.map(digestOf).sort());
});

test('a plan that is not cached, or has another digest than announced, is not returned', () => {
  const cache = new LayoutCache();
  const unknown = cache.use({ layout: 'L', manifest: null, planDigest: 'P', plan: null, ...checkpoint });
  assert.deepEqual([unknown.manifest, unknown.plan], [undefined, undefined]);
  const other = encodePlan(planOf('Q'));
  assert.equal(
    cache.use({ layout: 'L', manifest, planDigest: 'P', plan: other, ...checkpoint }).plan,
    undefined,
  );
  assert.deepEqual(cache.planDigests, []);
});

test('a plan of which a byte has changed is refused', () => {
  const encoded = encodePlan(planOf('L'));
  const last = encoded.byteLength - 1;
  encoded[last] = encoded[last]! ^ 1;
  const request = { layout: 'L', manifest, planDigest: digestOf('L'), plan: encoded, ...checkpoint };
  assert.throws(() => new LayoutCache().use(request), /not the plan/);
});

test('a cached manifest has the segments that are asked for, and says whose digests it has', () => {
  const cache = new LayoutCache();
  const known = { layout: 'L', planDigest: digestOf('L'), plan: encodePlan(planOf('L')) };
  assert.equal(cache.use({ ...known, manifest, ...checkpoint }).hasDigests, true);
  const later = cache.use({ ...known, manifest: null, segments: ['/dev/shm/later'], expected: 'F' });
  assert.deepEqual([later.manifest?.segments[0]?.path, later.hasDigests], ['/dev/shm/later', false]);
  const again = cache.use({ ...known, manifest: null, ...checkpoint });
  assert.deepEqual([again.manifest, again.hasDigests], [registered, true]);
  assert.equal(cache.use({ ...known, manifest: null, segments: [], expected: 'E' }).manifest, undefined);
  cache.forget('L');
  assert.deepEqual(cache.layouts, []);
});
