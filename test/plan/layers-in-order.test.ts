import assert from 'node:assert/strict';
import { test } from 'node:test';
import { inOrderOfLayers } from '../../src/checkpoint/named-tensors.ts';
import { planUpdate } from '../../src/plan/buckets.ts';
import { byLayer, layerKeys } from '../../src/plan/layer-order.ts';
import type { Plan } from '../../src/plan/plan.ts';
import { deepSeekV3, type Listed, loadedBy, loadedFromFile, mlaTensors } from './model-layouts.ts';

const small = {
  ...deepSeekV3,
  layers: 14,
  experts: 8,
  hidden: 512,
  vocabulary: 4096,
  heads: 8,
  denseIntermediate: 1024,
  expertIntermediate: 256,
};
/** As safetensors sorts names: layer 10 before layer 2, and the head first. */
const alphabetical = (listed: Listed) => [...listed].sort((one, other) => (one.name < other.name ? -1 : 1));

const layerOf = (name: string) => Number(/layers\.(\d+)\./.exec(name)?.[1] ?? Number.NaN);

/** The layers of all tensors that are in one, in the plan's order. */
function layersOf(plan: Plan, names: readonly string[]): number[] {
  return Array.from(plan.tensorOrder, (row) => layerOf(names[row]!)).filter((layer) => !Number.isNaN(layer));
}

function planOf(listed: Listed, { loaders, count }: { loaders: number; count: number }) {
  const manifest = loadedBy(listed, new Array<string>(loaders).fill('a'));
  const ranks = Array.from({ length: count }, (_, rank) => ({ rank, host: 'a', freeBytes: 2 ** 30 }));
  return { manifest, plan: planUpdate({ manifest, ranks, fraction: 1, bucketBytes: 2 ** 20 }) };
}

const isAscending = (numbers: readonly number[]) =>
  numbers.every((number, at) => at === 0 || number >= numbers[at - 1]!);

for (const { loaders, count } of [
  { loaders: 1, count: 1 },
  { loaders: 8, count: 1 },
  { loaders: 1, count: 8 },
]) {
  test(`layers come in order: loaded by ${loaders}, fed by ${count}`, () => {
    const { manifest, plan } = planOf(alphabetical(mlaTensors(small)), { loaders, count });
    assert.ok(isAscending(layersOf(plan, manifest.names)));
    assert.equal(new Set(plan.owners).size, count, 'all ranks feed');
  });
}

test('what each of several owners feeds is in the order of layers, forward or backward', () => {
  const { manifest, plan } = planOf(alphabetical(mlaTensors(small)), { loaders: 4, count: 4 });
  for (const owner of [0, 1, 2, 3]) {
    const layers = [...plan.owners.keys()]
      .filter((bucket) => plan.owners[bucket] === owner)
      .flatMap((bucket) => [
        ...plan.tensorOrder.subarray(plan.tensorStarts[bucket], plan.tensorStarts[bucket + 1]),
      ])
      .map((row) => layerOf(manifest.names[row]!))
      .filter((layer) => !Number.isNaN(layer));
    assert.ok(isAscending(layers) || isAscending(layers.reverse()), `owner ${owner}`);
  }
});

test('ranks that loaded nothing take turns with those that did, each within one segment', () => {
  const { manifest, plan } = planOf(mlaTensors(small), { loaders: 4, count: 8 });
  for (let rank = 0; rank < 8; rank += 1) {
    const segments = new Set<number>();
    for (const [bucket, owner] of plan.owners.entries()) {
      const entries = plan.tensorOrder.subarray(plan.tensorStarts[bucket], plan.tensorStarts[bucket + 1]);
      if (owner === rank) for (const row of entries) segments.add(manifest.segmentOf[row]!);
    }
    assert.equal(segments.size, 1, `rank ${rank}`);
  }
});

test('rows are ordered by stack and layer, and else stay where they are', () => {
  const names = [
    'visual.blocks.1.qkv',
    'visual.blocks.0.qkv.weight',
    'visual.blocks.1.qkv.weight',
    'model.layers.10.mlp.experts.3.up.weight',
    'model.norm.weight',
    'model.layers.2.mlp.experts.9.up.weight',
    'model.layers.10.mlp.experts.1.up.weight',
    'model.layers.2.mlp.experts.4.up.weight',
  ];
  const keys = layerKeys(names);
  assert.deepEqual(byLayer(keys, [...names.keys()]), [1, 0, 2, 5, 7, 3, 4, 6]);
  assert.deepEqual(byLayer(keys, [...names.keys()], 'backward'), [3, 4, 6, 5, 7, 0, 2, 1]);
  const ordered = [1, 0, 2, 5];
  assert.equal(byLayer(keys, ordered), ordered);
});

/** The most layers of which some tensors have come and others have not. */
function mostOpenLayers(plan: Plan, names: readonly string[]): number {
  const missing = new Map<number, number>();
  for (const name of names) missing.set(layerOf(name), (missing.get(layerOf(name)) ?? 0) + 1);
  const whole = new Map(missing);
  let most = 0;
  for (const bucket of plan.owners.keys()) {
    for (const row of plan.tensorOrder.subarray(plan.tensorStarts[bucket], plan.tensorStarts[bucket + 1])) {
      const layer = layerOf(names[row]!);
      missing.set(layer, missing.get(layer)! - 1);
    }
    const open = [...missing].filter(
      ([layer, left]) => !Number.isNaN(layer) && left > 0 && left < whole.get(layer)!,
    );
    most = Math.max(most, open.length);
  }
  return most;
}

test('no more layers are held than there are owners, also where ranks loaded parts of one layer', () => {
  const { manifest, plan } = planOf(mlaTensors({ ...small, layers: 23 }), { loaders: 8, count: 8 });
  assert.equal(new Set(plan.owners).size, 8);
  assert.ok(mostOpenLayers(plan, manifest.names) <= 8);
});

test('tensors of memory are put in the order of layers, whatever order they are given in', () => {
  const listed = mlaTensors({ ...small, layers: 23 });
  const numberless = ({ name }: { readonly name: string }) => name.replace(/\d+/, '');
  // As a trainer that keeps a table for each kind of weight gives them.
  const given = [...listed].sort((one, other) => (numberless(one) < numberless(other) ? -1 : 1));
  const tensor = { dtype: 'U8', shape: [0], data: new Uint8Array() };
  const ordered = Object.keys(inOrderOfLayers(Object.fromEntries(given.map(({ name }) => [name, tensor]))));
  const bytesOf = new Map(listed.map(({ name, bytes }) => [name, bytes]));
  const most = [given, ordered.map((name) => ({ name, bytes: bytesOf.get(name)! }))].map((each) => {
    const { manifest, plan } = planOf(each, { loaders: 8, count: 8 });
    return mostOpenLayers(plan, manifest.names);
  });
  assert.ok(most[0]! > 20 && most[1]! <= 8, `${most} layers are held`);
});

test('where every rank loaded a part of each layer, layers come in order', () => {
  const listed = mlaTensors({ ...small, layers: 6 });
  const stripes = Array.from({ length: 4 }, (_, rank) =>
    listed.filter((_tensor, row) => row % 4 === rank),
  ).flat();
  const { manifest, plan } = planOf(stripes, { loaders: 4, count: 4 });
  assert.ok(mostOpenLayers(plan, manifest.names) <= 3);
});

test('what eight ranks loaded from files comes layer by layer, each feeding from its own memory alone', () => {
  const manifest = loadedFromFile(alphabetical(mlaTensors({ ...small, layers: 23 })), 8);
  const ranks = Array.from({ length: 8 }, (_, rank) => ({ rank, host: 'a', freeBytes: 2 ** 30 }));
  const plan = planUpdate({ manifest, ranks, fraction: 1, bucketBytes: 2 ** 19 });
  const most = mostOpenLayers(plan, manifest.names);
  assert.ok(most <= 3, `${most} layers are held`);
  for (const [bucket, owner] of plan.owners.entries()) {
    for (const row of plan.tensorOrder.subarray(plan.tensorStarts[bucket], plan.tensorStarts[bucket + 1]))
      assert.equal(manifest.segments[manifest.segmentOf[row]!]!.rank, owner);
  }
});
