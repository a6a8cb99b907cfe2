import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { CheckpointError, MemoryError } from '../../src/errors.ts';
import { planUpdate } from '../../src/plan/buckets.ts';
import type { Plan } from '../../src/plan/plan.ts';
import { transfersOf } from '../../src/plan/transfers.ts';
import { checkProperty } from '../check-property.ts';
import { manifestOf, reordered, segmentOf } from './manifests.ts';
import { deepSeekV3, type Listed, loadedBy, mlaTensors } from './model-layouts.ts';

const hostOf = (count: number) => new Array<string>(count).fill('a');
const ranksOf = (count: number, freeBytes: number) =>
  hostOf(count).map((host, rank) => ({ rank, host, freeBytes }));

/** Name to bucket. */
function bucketsByName(plan: Plan, names: readonly string[]): Map<string, number> {
  const bucketOf = new Map<string, number>();
  for (const bucket of plan.owners.keys()) {
    for (const row of plan.tensorOrder.subarray(plan.tensorStarts[bucket], plan.tensorStarts[bucket + 1]))
      bucketOf.set(names[row]!, bucket);
  }
  return bucketOf;
}

/** How the names of each pair's halves end, and begin: the parent. */
const pairs = [
  { parent: /\.self_attn$/, halves: ['q_a_proj', 'kv_a_proj_with_mqa'] },
  { parent: /\.attn$/, halves: ['wq_a', 'wkv'] },
  { parent: /\.compressor$/, halves: ['wkv', 'wgate'] },
] as const;

/** Which pairs a module can be a half of. */
const halfModules = new Map(
  pairs
    .flatMap(({ halves }) => halves)
    .map((half) => [half as string, pairs.filter(({ halves }) => halves.some((one) => one === half))]),
);

/** Pairs of which two tensors are in different buckets. */
function split(plan: Plan, names: readonly string[]): string[] {
  const bucketOf = bucketsByName(plan, names);
  const bucketOfPair = new Map<string, number>();
  const torn = new Set<string>();
  for (const name of names) {
    const end = name.lastIndexOf('.');
    const start = name.lastIndexOf('.', end - 1);
    const matching = halfModules.get(name.slice(start + 1, end));
    const parent = name.slice(0, Math.max(start, 0));
    if (!matching?.some((pair) => pair.parent.test(parent))) continue;
    const first = bucketOfPair.get(parent) ?? bucketOf.get(name)!;
    bucketOfPair.set(parent, first);
    if (bucketOf.get(name) !== first) torn.add(parent);
  }
  assert.ok(bucketOfPair.size > 0, 'the layout has pairs');
  return [...torn];
}

for (const count of [1, 8]) {
  test(`DeepSeek V3 on ${count} ranks: no layer's q_a_proj is parted from its kv_a_proj_with_mqa`, () => {
    const manifest = loadedBy(mlaTensors(deepSeekV3), hostOf(count));
    const ranks = ranksOf(count, 60 * 2 ** 30);
    for (const mebibytes of [32, 128, 512, 1024]) {
      const plan = planUpdate({ manifest, ranks, fraction: 0.5, bucketBytes: mebibytes * 2 ** 20 });
      assert.deepEqual(split(plan, manifest.names), [], `${mebibytes} MiB`);
    }
  });
}

/** Small layers of DeepSeek V3 and V4, so that sizes and order of the tensors can be anything. */
const layouts: fc.Arbitrary<Listed> = fc
  .record({
    layers: fc.integer({ min: 1, max: 6 }),
    sizes: fc.array(fc.nat(6_000), { minLength: 40, maxLength: 40 }),
    keys: fc.array(fc.nat(60), { minLength: 30, maxLength: 30 }),
  })
  .map(({ layers, sizes, keys }) => {
    const modules = Array.from({ length: layers }, (_, layer) => [
      ...['kv_a_proj_with_mqa', 'kv_b_proj', 'o_proj', 'q_a_proj'].map(
        (name) => `model.layers.${layer}.self_attn.${name}`,
      ),
      ...['wq_a', 'wq_b', 'wkv', 'wo_a'].map((name) => `layers.${layer}.attn.${name}`),
      ...['ape', 'wgate', 'norm', 'wkv'].map((name) => `layers.${layer}.attn.indexer.compressor.${name}`),
      ...['gate_proj', 'up_proj', 'down_proj'].map((name) => `model.layers.${layer}.mlp.${name}`),
    ]).flat();
    const tensors = modules.flatMap((module) => [`${module}.weight`, `${module}.weight_scale_inv`]);
    return reordered(tensors, keys).map((name, row) => ({ name, bytes: sizes[row % sizes.length]! }));
  });

test('no known pair is ever parted, whatever lies between its halves, at any bucket size', () => {
  const property = fc.property(
    layouts,
    fc.constantFrom(1, 2, 8),
    fc.constantFrom(1, 3, 8),
    fc.integer({ min: 1, max: 400_000 }),
    (listed, loaders, count, bucketBytes) => {
      const manifest = loadedBy(listed, hostOf(loaders));
      const ranks = ranksOf(count, 2 ** 20);
      const plan = planUpdate({ manifest, ranks, fraction: 1, bucketBytes });
      assert.deepEqual(split(plan, manifest.names), []);
    },
  );
  checkProperty(property, 300);
});

/** `q_a_proj` loaded by rank 0, `kv_a_proj_with_mqa` by rank 1. */
const halves = (host: string) =>
  manifestOf(
    [
      { name: 'layers.0.q_a_proj.weight', bytes: 1000, segment: 0, offset: 0 },
      { name: 'layers.0.o_proj.weight', bytes: 5000, segment: 0, offset: 1024 },
      { name: 'layers.0.kv_b_proj.weight', bytes: 5000, segment: 1, offset: 0 },
      { name: 'layers.0.kv_a_proj_with_mqa.weight', bytes: 900, segment: 1, offset: 5120 },
    ],
    [segmentOf(0, 'a'), segmentOf(1, host)],
  );

test('halves in segments of two ranks of a host are uploaded from both', () => {
  const manifest = halves('a');
  const plan = planUpdate({ manifest, ranks: ranksOf(2, 2 ** 20), fraction: 1, bucketBytes: 2048 });
  const bucket = bucketsByName(plan, manifest.names).get('layers.0.q_a_proj.weight')!;
  assert.deepEqual(transfersOf(plan, manifest, bucket, 0), [
    { segment: 0, rectangles: Float64Array.of(0, 0, 1000, 1, 1000, 1000) },
    { segment: 1, rectangles: Float64Array.of(5120, 1024, 900, 1, 900, 900) },
  ]);
});

test('halves on different hosts are named, with both hosts', () => {
  const ranks = [
    { rank: 0, host: 'a', freeBytes: 2 ** 20 },
    { rank: 1, host: 'b', freeBytes: 2 ** 20 },
  ];
  assert.throws(
    () => planUpdate({ manifest: halves('b'), ranks, fraction: 1, bucketBytes: 2048 }),
    (error) =>
      error instanceof CheckpointError &&
      /"layers\.0\.q_a_proj\.weight" and "layers\.0\.kv_a_proj_with_mqa\.weight" .*"a" and "b"/.test(
        error.message,
      ),
  );
});

test('fused tensors that no slot holds are a MemoryError that names all of them', () => {
  const input = { manifest: halves('a'), ranks: ranksOf(2, 9_215), fraction: 1, bucketBytes: 2048 };
  const larger = { ...input, fused: [['q_a_proj', 'o_proj']] };
  assert.throws(
    () => planUpdate(larger),
    (error) => {
      assert.ok(error instanceof MemoryError);
      assert.match(
        error.message,
        /"layers\.0\.q_a_proj\.weight", "layers\.0\.o_proj\.weight", "layers\.0\.kv_a_proj_with_mqa\.weight", which share a bucket/,
      );
      return true;
    },
  );
});

test('the caller can name further modules that a model fuses', () => {
  const manifest = halves('a');
  const input = { manifest, ranks: ranksOf(2, 2 ** 20), fraction: 1, bucketBytes: 2048 };
  const together = (fused: readonly string[][]) => {
    const bucketOf = bucketsByName(planUpdate({ ...input, fused }), manifest.names);
    return bucketOf.get('layers.0.o_proj.weight') === bucketOf.get('layers.0.kv_b_proj.weight');
  };
  assert.equal(together([]), false);
  assert.equal(together([['o_proj', 'kv_b_proj']]), true);
  assert.equal(
    together([
      ['o_proj', 'q_a_proj'],
      ['q_a_proj', 'kv_b_proj'],
    ]),
    true,
    'lists with one in common are one',
  );
  for (const [list, message] of [
    [['o_proj', ''], /no tensor is of a module ""/],
    [['o_proj', 'b_proj'], /no tensor is of a module "b_proj"/],
    [['o_proj'], /"o_proj" is not two modules or more/],
  ] as const) {
    assert.throws(() => together([[...list]]), { name: 'UsageError', message });
  }
});
