import assert from 'node:assert/strict';
import { test } from 'node:test';
import { groupedQueryTensors } from '../../bench/table/grouped-query-models.ts';
import { streamMilliseconds } from '../../bench/table/pipeline.ts';
import { membersOf, planCluster, planJoin } from '../../bench/table/planned.ts';
import { measured, type Speeds } from '../../bench/table/speeds.ts';
import { bytesOfTensor, tensorList } from '../../bench/tensor-lists.ts';

const bucketBytes = 2 ** 28;
/** Tensors that are a bucket each: more than two ranks take buckets of twice the size. */
const model = (count: number, ranks: number) =>
  Array.from({ length: count }, (_, layer) => {
    return {
      name: `model.layers.${layer}.weight`,
      dtype: 'BF16',
      shape: [ranks > 2 ? bucketBytes : bucketBytes / 2],
    };
  });
const quick: Speeds = {
  ...measured,
  upload: bucketBytes,
  broadcast: Number.POSITIVE_INFINITY,
  workerBucket: 0,
  workerTrip: 0,
  workerTensor: 0,
  broadcastStart: 0,
  notice: 0,
};
const stream = (ranks: number, buckets: number, speeds: Partial<Speeds>, perHost = ranks) => {
  const members = membersOf(ranks, perHost);
  const { plan } = planCluster(model(buckets, ranks), members);
  assert.equal(plan.owners.length, buckets);
  const hostOf = (rank: number) => members[rank]!.host;
  return streamMilliseconds({ plan, speeds: { ...quick, ...speeds }, hostOf });
};
const close = (value: number, expected: number) =>
  assert.ok(Math.abs(value - expected) < 1e-6, `${value} instead of ${expected}`);

test('the slowest stage sets the time: uploads of all owners at once, broadcasts and workers one after the other', () => {
  close(stream(1, 12, {}), 12);
  close(stream(4, 12, {}), 2 * 3);
  close(stream(4, 12, { upload: Number.POSITIVE_INFINITY, broadcast: bucketBytes }), 24);
  close(stream(4, 12, { upload: Number.POSITIVE_INFINITY, workerBucket: 5, workerTensor: 1 }), 72);
});

test('a worker that is slow to answer keeps the slots, and broadcasts wait for them', () => {
  // Two link slots: a bucket is broadcast when the one before the last is answered.
  const speeds = { upload: Number.POSITIVE_INFINITY, broadcast: bucketBytes / 2, notice: 4 };
  close(stream(2, 3, speeds), 2 + 4 + 2 + 4);
});

test('the way to a worker and back is gone while it is at other buckets, as many as there are slots', () => {
  const speeds = { upload: Number.POSITIVE_INFINITY, workerBucket: 4 };
  close(stream(1, 3, { ...speeds, workerTrip: 2 }), 1 + 3 * 4 + 1);
  // Longer than the buckets in the other slots take.
  close(stream(1, 6, { ...speeds, workerTrip: 20 }), 10 + 3 * 4 + (20 - 2 * 4) + 3 * 4 + 10);
});

test('between hosts a ring is as slow as the network, and longer by every hop', () => {
  const speeds = {
    upload: Number.POSITIVE_INFINITY,
    broadcast: 2 * bucketBytes,
    network: (2 * bucketBytes) / 3,
  };
  close(stream(4, 1, speeds, 2), 3);
  close(stream(4, 1, { ...speeds, hop: 1, networkHop: 10 }, 2), 3 + 1 + 10 + 1);
});

test('who joins uploads nothing before it has arrived', () => {
  const members = membersOf(2, 2);
  const { manifest } = planCluster(model(4, 2), members);
  const joining = membersOf(2, 2, 2);
  const { plan, received } = planJoin(manifest, members, joining);
  assert.equal(
    [...received.values()].reduce((sum, bytes) => sum + bytes, 0),
    4 * bucketBytes,
  );
  const arrivals = Float64Array.from(plan.owners, () => 100);
  close(streamMilliseconds({ plan, speeds: quick, hostOf: () => 'node-1', arrivals }), 102);
});

test('the lists of tensors have as many parameters as the models are known for', () => {
  const parameters = (list: readonly { readonly shape: readonly number[] }[]) =>
    list.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0);
  const without = (prefix: string) =>
    groupedQueryTensors('glm-4.5-air-bf16').filter(({ name }) => !name.startsWith(prefix));
  // 106 billion without the layer that predicts further tokens, and 235 billion.
  assert.equal(Math.floor(parameters(without('model.layers.46.')) / 1e9), 106);
  assert.equal(Math.floor(parameters(groupedQueryTensors('qwen3-235b-a22b-bf16')) / 1e9), 235);
  const kimi = tensorList('kimi-k2-int4');
  assert.equal(kimi.length, 208_215);
  assert.equal(Math.round(kimi.reduce((sum, tensor) => sum + bytesOfTensor(tensor), 0) / 1e9), 594);
});
