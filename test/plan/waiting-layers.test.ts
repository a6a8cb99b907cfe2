import assert from 'node:assert/strict';
import { test } from 'node:test';
import { wholeCuts } from '../../src/checkpoint/cuts.ts';
import { MemoryError } from '../../src/errors.ts';
import { type PlanInput, planUpdate, planWithNeeds } from '../../src/plan/buckets.ts';
import { slotMemory } from '../../src/plan/plan.ts';
import { PlanCache } from '../../src/plan/plan-cache.ts';
import { waitingLayers } from '../../src/plan/waiting-layers.ts';
import { manifestOf, segmentOf } from './manifests.ts';

const MB = 2 ** 20;

/** Tensors of a MiB each, of one rank. */
function manifestWith(names: readonly string[]) {
  const rows = names.map((name, row) => ({ name, bytes: MB, segment: 0, offset: row * MB }));
  return manifestOf(rows, [segmentOf(0, 'h')]);
}

const expertNames = (count: number, layer = 0) =>
  Array.from({ length: count }, (_, expert) => `model.layers.${layer}.mlp.experts.${expert}.up_proj.weight`);

const attention = (layer: number) =>
  ['q', 'k', 'v'].map((which) => `model.layers.${layer}.self_attn.${which}_proj.weight`);

function inputOf(
  names: readonly string[],
  options: Partial<PlanInput> & { freeBytes?: number; experts?: number } = {},
) {
  const { freeBytes = 1_024 * MB, experts, ...rest } = options;
  const waiting = experts === undefined ? null : { experts };
  const ranks = [{ rank: 0, host: 'h', freeBytes, waiting }];
  return {
    manifest: manifestWith(names),
    ranks,
    fraction: 1,
    bucketBytes: 4 * MB,
    ...rest,
  } satisfies PlanInput;
}

function waitingOf(names: readonly string[], bucketBytes: number, experts = 1) {
  const input = inputOf(names, { bucketBytes });
  return waitingLayers(planUpdate(input), input.manifest, experts);
}

test('of a layer that is larger than a bucket all but the last bucket waits', () => {
  const experts = expertNames(16);
  assert.deepEqual(waitingOf(experts, 4 * MB), { bytes: 12 * MB, layer: 'model.layers.0.mlp.experts' });
  assert.equal(waitingOf(experts, 16 * MB).bytes, 0);
  // Each layer by itself: the first is whole before the second begins.
  assert.equal(waitingOf([...experts, ...expertNames(16, 1)], 4 * MB).bytes, 12 * MB);
});

test("of experts no more waits than a worker's own", () => {
  assert.equal(waitingOf(expertNames(16), 4 * MB, 1 / 4).bytes, 4 * MB);
  assert.equal(waitingOf(expertNames(16), 4 * MB, 1 / 16).bytes, MB);
});

test('what a model may fuse waits for its fellows, and nothing else does', () => {
  const others = ['model.embed_tokens.weight', 'model.norm.weight', 'lm_head.weight'];
  assert.equal(waitingOf(others, MB).bytes, 0);
  assert.deepEqual(waitingOf(attention(0), MB), { bytes: 2 * MB, layer: 'model.layers.0.self_attn' });
  const norms = ['model.layers.0.input_layernorm.weight', 'model.layers.0.post_attention_layernorm.weight'];
  assert.equal(waitingOf(norms, MB).bytes, 0);
  assert.equal(
    waitingOf(['a.0.q_proj.weight', 'a.0.q_proj.weight_scale', 'b.0.shared_experts.x'], MB).bytes,
    MB,
  );
});

test('a rank waits for nothing of what it is not sent', () => {
  const input = inputOf(expertNames(16));
  const cuts = wholeCuts(16);
  // Experts 4 to 15 are those of others.
  cuts.dims.fill(0, 4);
  cuts.lengths.fill(0, 4);
  const plan = planUpdate(input);
  assert.equal(waitingLayers(plan, input.manifest, 1, cuts).bytes, 0);
});

test('buckets are made smaller until slots and what waits fit together', () => {
  const names = expertNames(64);
  const roomy = planWithNeeds(inputOf(names, { experts: 1 }));
  assert.equal(roomy.choice.bucketBytes, 4 * MB);
  // Three slots of 4 MiB fit, but not beside 60 MiB that wait.
  const tight = planWithNeeds(inputOf(names, { experts: 1, freeBytes: 70 * MB }));
  assert.ok(tight.choice.bucketBytes < 4 * MB);
  assert.ok(slotMemory(tight.choice) + tight.waiting.get(1)!.bytes <= 70 * MB);
  // Nobody keeps anything, or only a quarter of the experts.
  assert.equal(planWithNeeds(inputOf(names, { freeBytes: 70 * MB })).choice.bucketBytes, 4 * MB);
  assert.equal(
    planWithNeeds(inputOf(names, { experts: 1 / 4, freeBytes: 70 * MB })).choice.bucketBytes,
    4 * MB,
  );
});

test('a layer that no device has room for is a MemoryError that names it, the rank and the bytes', () => {
  assert.throws(
    () => planUpdate(inputOf(expertNames(64), { experts: 1, freeBytes: 60 * MB })),
    (error) => {
      assert.ok(error instanceof MemoryError);
      for (const part of ['rank 0', '"model.layers.0.mlp.experts"', '63 MiB', '60 MiB'])
        assert.ok(error.message.includes(part), `"${error.message}" has ${part}`);
      return true;
    },
  );
});

test('a plan is not used again where what waits has no room any more, or was not known', () => {
  const cache = new PlanCache();
  const names = expertNames(64);
  const of = (options: { freeBytes?: number; experts?: number }) =>
    cache.plan({ ...inputOf(names, options), layout: 'l' });
  const plan = of({ freeBytes: 80 * MB, experts: 1 });
  assert.equal(of({ freeBytes: 80 * MB, experts: 1 }), plan);
  const tight = of({ freeBytes: 66 * MB, experts: 1 });
  assert.notEqual(tight, plan);
  assert.equal(of({ freeBytes: 66 * MB, experts: 1 }), tight, 'though the slots alone could be larger');
  assert.throws(() => of({ freeBytes: 60 * MB, experts: 1 }), MemoryError);
  const unknown = of({ freeBytes: 60 * MB });
  assert.throws(() => of({ freeBytes: 60 * MB, experts: 1 }), MemoryError);
  assert.equal(of({ freeBytes: 60 * MB }), unknown);
});
