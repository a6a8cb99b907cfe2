import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Shard, shardTensor } from '../../scenarios/reference-engine/sharding.ts';
import { DTYPES } from '../../src/checkpoint/dtype.ts';
import { forSeeds, type SeededRandom } from '../plan/seeded-random.ts';

const layers = [
  'q_proj',
  'k_proj',
  'v_proj',
  'o_proj',
  'gate_proj',
  'up_proj',
  'down_proj',
  'lm_head',
  'norm',
];
const kinds = ['weight', 'bias', 'weight_scale_inv', 'input_scale'];

interface Case {
  readonly tensor: { readonly name: string; readonly shape: readonly number[]; readonly bytes: number };
  readonly ranks: number;
  readonly keyValueHeads: number | null;
}

function randomCase(random: SeededRandom): Case {
  const shape = Array.from({ length: random.whole(0, 3) }, () => random.pick([0, 1, 2, 3, 8, 12, 16, 24]));
  // With a last dimension of 8, tensors of every dtype have whole bytes.
  if (shape.length > 0 && random.chance(0.7)) shape[shape.length - 1] = 8;
  const { bits } = random.pick(DTYPES);
  const elements = shape.reduce((product, size) => product * size, 1);
  return {
    tensor: {
      name: `${random.pick(['', 'model.layers.3.self_attn.', 'a.mlp.experts.7.'])}${random.pick(layers)}.${random.pick(kinds)}`,
      shape,
      bytes: Math.ceil((elements * bits) / 8),
    },
    ranks: random.pick([1, 2, 3, 4, 8, 16]),
    keyValueHeads: random.pick([null, 1, 2, 4, 6, 8]),
  };
}

function shards({ tensor, ranks, keyValueHeads }: Case): Shard[] {
  return Array.from({ length: ranks }, (_, rank) => shardTensor(tensor, { ranks, rank, keyValueHeads }));
}

const weight = (name: string, ...shape: number[]) => ({
  name,
  shape,
  bytes: shape.reduce((product, size) => product * size, 2),
});

const onFour = (tensor: ReturnType<typeof weight>, keyValueHeads: number | null = null) =>
  shards({ tensor, ranks: 4, keyValueHeads });

test('the parts of a tensor cover each byte exactly once', () => {
  forSeeds(2_000, (random) => {
    const one = randomCase(random);
    const covered = new Uint8Array(one.tensor.bytes);
    for (const { source, first } of shards(one)) {
      if (!first) continue;
      for (let row = 0; row < source.rows; row += 1) {
        const start = source.offset + row * source.pitch;
        for (let at = start; at < start + source.rowBytes; at += 1) covered[at]! += 1;
      }
    }
    assert.ok(
      covered.every((times) => times === 1),
      JSON.stringify(one),
    );
  });
});

test('ranks with the same part hold the same bytes, and only the lowest of them is marked first', () => {
  forSeeds(1_000, (random) => {
    const firsts = new Map<number, Shard>();
    for (const shard of shards(randomCase(random))) {
      assert.equal(shard.first, !firsts.has(shard.part));
      if (shard.first) firsts.set(shard.part, shard);
      const { source, parts, parameter, position } = firsts.get(shard.part)!;
      assert.deepEqual(shard.source, source);
      assert.deepEqual([shard.parts, shard.parameter, shard.position], [parts, parameter, position]);
    }
    assert.deepEqual([...firsts.keys()], [...Array(firsts.get(0)!.parts).keys()]);
  });
});

test('a column-parallel weight is split into rows, a row-parallel one into columns', () => {
  const up = onFour(weight('mlp.up_proj.weight', 8, 4))[3]!;
  assert.deepEqual(up.source, { offset: 48, rowBytes: 16, rows: 1, pitch: 64 });
  assert.deepEqual([up.part, up.parts], [3, 4]);
  const down = onFour(weight('mlp.down_proj.weight', 4, 8))[3]!;
  assert.deepEqual(down.source, { offset: 12, rowBytes: 4, rows: 4, pitch: 16 });
  assert.deepEqual([down.part, down.parts], [3, 4]);
});

test('biases and block scales are split like their weights, except that a row-parallel bias is not split', () => {
  assert.equal(onFour(weight('q_proj.bias', 8))[0]!.parts, 4);
  assert.equal(onFour(weight('q_proj.weight_scale_inv', 4, 3))[0]!.parts, 4);
  assert.equal(onFour(weight('o_proj.weight_scale_inv', 3, 4))[0]!.source.rowBytes, 2);
  assert.equal(onFour(weight('o_proj.bias', 8))[0]!.parts, 1);
});

test('tensors that are unknown, uneven, or would be split within a byte are not split', () => {
  for (const [name, shape, bytes] of [
    ['model.norm.weight', [8], 16],
    ['mlp.gate.weight', [8, 8], 128],
    ['q_proj.input_scale', [8], 32],
    ['q_proj.weight', [6, 8], 96],
    ['q_proj.weight_scale', [], 4],
    ['down_proj.weight', [8], 16],
    ['down_proj.weight', [8, 4], 16],
    ['lm_head.weight', [0, 4], 0],
  ] as const) {
    const [shard] = shards({ tensor: { name, shape, bytes }, ranks: 4, keyValueHeads: null });
    assert.deepEqual([shard!.parts, shard!.source.rowBytes], [1, bytes], `${name} ${shape}`);
  }
});

test('key-value heads are never split: with fewer heads than ranks, several ranks hold the same head', () => {
  const parts = (heads: number) => onFour(weight('k_proj.weight', 24, 4), heads).map(({ part }) => part);
  assert.deepEqual(parts(2), [0, 0, 1, 1]);
  assert.deepEqual(parts(8), [0, 1, 2, 3]);
  assert.deepEqual(parts(6), [0, 0, 0, 0], 'six heads for four ranks');
  assert.deepEqual(parts(3), [0, 0, 0, 0], 'three heads for four ranks');
  assert.equal(onFour(weight('q_proj.weight', 24, 4), 2)[3]!.part, 3, 'there are enough query heads');
});

test('tensors that a layer uses together share a parameter, in the order in which vLLM stacks them', () => {
  const place = (name: string) => {
    const { parameter, position } = onFour(weight(name, 8, 8))[0]!;
    return [parameter, position];
  };
  assert.deepEqual(place('l.self_attn.q_proj.weight'), ['l.self_attn.qkv_proj.weight', 0]);
  assert.deepEqual(place('l.self_attn.v_proj.bias'), ['l.self_attn.qkv_proj.bias', 2]);
  assert.deepEqual(place('l.mlp.up_proj.weight_scale_inv'), ['l.mlp.gate_up_proj.weight_scale_inv', 1]);
  assert.deepEqual(place('l.mlp.shared_experts.gate_proj.weight'), [
    'l.mlp.shared_experts.gate_up_proj.weight',
    0,
  ]);
  assert.deepEqual(place('l.mlp.experts.5.gate_proj.weight'), ['l.mlp.experts.w13_weight', 10]);
  assert.deepEqual(place('l.mlp.experts.5.up_proj.weight'), ['l.mlp.experts.w13_weight', 11]);
  assert.deepEqual(place('l.mlp.experts.5.down_proj.weight'), ['l.mlp.experts.w2_weight', 5]);
  assert.deepEqual(place('l.input_layernorm.weight'), ['l.input_layernorm.weight', 0]);
});
