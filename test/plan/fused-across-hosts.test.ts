import assert from 'node:assert/strict';
import { test } from 'node:test';
import { planUpdate } from '../../src/plan/buckets.ts';
import { fusedUnits } from '../../src/plan/fused-tensors.ts';
import { type Copy, type FabricRank, planReception } from '../../src/plan/reception.ts';
import { cutSlices } from '../../src/plan/slices.ts';
import { manifestOf, segmentOf } from './manifests.ts';

const mebibyte = 2 ** 20;
const group = (host: string, ...ranks: number[]): FabricRank[] =>
  ranks.map((rank, place) => ({ rank, host, directory: '/shm', nics: [`mlx5_${place}`] }));

/** Layers of which each half of the pair is a slice; `segmentsOf` says where each layer's halves lie. */
function pairsIn(segmentsOf: readonly (readonly [number, number])[], hosts: readonly string[]) {
  const ends = hosts.map(() => 0);
  const rows = segmentsOf.flatMap((segments, layer) =>
    ['q_a_proj', 'kv_a_proj_with_mqa'].map((half, index) => {
      const segment = segments[index]!;
      const offset = ends[segment]!;
      ends[segment] = offset + 16 * mebibyte;
      return { name: `layers.${layer}.${half}.weight`, bytes: 16 * mebibyte, segment, offset };
    }),
  );
  return manifestOf(
    rows,
    hosts.map((host, rank) => segmentOf(rank, host)),
  );
}

function receive(
  manifest: ReturnType<typeof pairsIn>,
  ranks: readonly FabricRank[],
  sources: readonly FabricRank[],
  copies: readonly Copy[] = [],
) {
  const [slices, units] = [cutSlices(manifest), fusedUnits(manifest, [])];
  assert.equal(slices.slices.length, manifest.names.length, 'a slice is one half');
  const reception = planReception({ manifest, slices, units, ranks, sources, copies, mirrorName: 'm-' });
  if (reception === null) return null;
  const arriving = new Set(reception.mirrors.map(({ path }) => path));
  const members = ranks.map(({ rank, host }) => ({ rank, host, freeBytes: 2 ** 30 }));
  const input = { manifest: reception.manifest, ranks: members, fraction: 1, bucketBytes: 40 * mebibyte };
  return { ...reception, plan: planUpdate({ ...input, arriving }) };
}

test('both halves of a pair are received, and fed, by one rank', () => {
  const manifest = pairsIn(
    [
      [0, 0],
      [0, 1],
      [1, 0],
      [1, 1],
    ],
    ['a', 'a'],
  );
  const { mirrors, plan } = receive(manifest, group('b', 4, 5), group('a', 0, 1))!;
  const sliceOf = cutSlices(manifest).sliceOf;
  const receiverOf = new Map(mirrors.map(({ slice, receiver }) => [slice, receiver]));
  for (const [bucket, owner] of plan.owners.entries()) {
    const rows = plan.tensorOrder.subarray(plan.tensorStarts[bucket], plan.tensorStarts[bucket + 1]);
    for (const row of rows) assert.equal(receiverOf.get(sliceOf[row]!), owner);
  }
  assert.deepEqual([...new Set(receiverOf.values())].sort(), [4, 5], 'both ranks receive');
});

test('a half that lies with the group is fed by the rank that receives the other', () => {
  const manifest = pairsIn([[0, 1]], ['a', 'b']);
  const { mirrors, plan } = receive(manifest, group('a', 0, 4), [...group('a', 0, 4), ...group('b', 1)])!;
  assert.equal(mirrors.length, 1);
  assert.deepEqual([...plan.owners], [mirrors[0]!.receiver]);
});

test('halves on two hosts of a group are brought to one of them, once', () => {
  const manifest = pairsIn(
    [
      [0, 0],
      [0, 1],
      [1, 1],
    ],
    ['a', 'b'],
  );
  const ranks = [...group('a', 0, 2), ...group('b', 1, 3)];
  const { mirrors, plan } = receive(manifest, ranks, ranks)!;
  assert.equal(mirrors.length, 1);
  const [{ slice, receiver, path, bytes }] = mirrors as [(typeof mirrors)[0]];
  assert.equal(bytes, 16 * mebibyte);
  const { host } = ranks.find(({ rank }) => rank === receiver)!;
  const hosts = [...plan.owners].map((owner) => ranks.find(({ rank }) => rank === owner)!.host);
  assert.deepEqual(new Set(hosts), new Set(['a', 'b']));
  const again = receive(manifest, ranks, ranks, [{ slice, path, host, rank: receiver }])!;
  assert.deepEqual(again.mirrors, [], 'the copy is used');
});

test('a group whose pairs are whole on each host receives nothing', () => {
  const manifest = pairsIn(
    [
      [0, 0],
      [1, 1],
    ],
    ['a', 'b'],
  );
  const ranks = [...group('a', 0), ...group('b', 1)];
  assert.equal(receive(manifest, ranks, ranks), null);
});
