/** Checkpoints in the memory of devices: only the rank on a device can read what is there. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { adoptedSegment, isOnDevice } from '../../src/checkpoint/file-identity.ts';
import { planUpdate } from '../../src/plan/buckets.ts';
import { fusedUnits } from '../../src/plan/fused-tensors.ts';
import { assignFiles } from '../../src/plan/load-assignment.ts';
import { shareOf, whyNotParts } from '../../src/plan/parts-choice.ts';
import { planReception } from '../../src/plan/reception.ts';
import { cutSlices } from '../../src/plan/slices.ts';
import { indexOf } from './indices.ts';
import { manifestOf } from './manifests.ts';

const directory = '/dev/shm/weightcast-0a1b';
const onDevice = (file: number) =>
  adoptedSegment(`${directory}/session-0a1b-1-${file}.device`, `1:${file}:9:0:0:header`);
const megabyte = 2 ** 20;

/** Two tensors in the memory of the device of each of these ranks, all on one host. */
function manifestOn(...ranks: number[]) {
  const rows = ranks.flatMap((_, segment) =>
    ['up', 'down'].map((name, at) => ({
      name: `layers.${segment}.${name}.weight`,
      bytes: megabyte,
      segment,
      offset: 65_536 + at * megabyte,
    })),
  );
  const segments = ranks.map((rank) => ({
    path: onDevice(rank),
    bytes: 65_536 + 2 * megabyte,
    host: 'a',
    rank,
  }));
  return manifestOf(rows, segments);
}

const group = (...ranks: number[]) => ranks.map((rank) => ({ rank, host: 'a', freeBytes: 2 ** 30 }));
const limits = { fraction: 1, bucketBytes: megabyte };

test('what is in the memory of a device is fed by the rank on it, and by no other of its host', () => {
  const plan = planUpdate({ manifest: manifestOn(2), ranks: group(0, 1, 2, 3), ...limits });
  assert.deepEqual([...plan.owners], [2, 2]);
  const both = manifestOn(2, 0);
  const { owners, tensorStarts, tensorOrder } = planUpdate({
    manifest: both,
    ranks: group(0, 1, 2),
    ...limits,
  });
  for (const [bucket, owner] of owners.entries())
    for (const row of tensorOrder.subarray(tensorStarts[bucket], tensorStarts[bucket + 1]))
      assert.equal(both.segments[both.segmentOf[row]!]!.rank, owner);
});

test('an update in which the rank on that device takes no part is refused, whoever else is on its host', () => {
  const refused = {
    name: 'CheckpointError',
    message: /device of rank 2, which takes no part.* without on_device$/,
  };
  for (const ranks of [group(0, 1), group(3)])
    assert.throws(() => planUpdate({ manifest: manifestOn(2), ranks, ...limits }), refused);
});

test('tensors that a model fuses have to be on one device', () => {
  const manifest = manifestOf(
    ['q_a_proj', 'kv_a_proj_with_mqa'].map((name, segment) => ({
      name: `layers.0.${name}.weight`,
      bytes: 8,
      segment,
      offset: 65_536,
    })),
    [0, 1].map((rank) => ({ path: onDevice(rank), bytes: 2 ** 20, host: 'a', rank })),
  );
  assert.throws(() => planUpdate({ manifest, ranks: group(0, 1), ...limits }), {
    name: 'CheckpointError',
    message: /q_a_proj.* have to reach an engine in one bucket, but are in the memory of different devices$/,
  });
});

test('other hosts do not receive it, and its own is sent whole tensors', () => {
  const manifest = manifestOn(0);
  const ranks = [{ rank: 4, host: 'b', directory, nics: [] }];
  const sources = [{ rank: 0, host: 'a', directory, nics: [] }];
  const [slices, units] = [cutSlices(manifest), fusedUnits(manifest, [])];
  assert.throws(
    () => planReception({ manifest, slices, units, ranks, sources, copies: [], mirrorName: 'm-' }),
    { name: 'CheckpointError', message: /device of rank 0 on host "a", which other hosts cannot read/ },
  );
  const half = {
    dims: new Uint8Array(2),
    starts: new Uint32Array(2),
    lengths: new Uint32Array(2).fill(megabyte / 2),
  };
  const shares = [0, 1].map(() => shareOf(manifest, half));
  const alternative = { sharing: 2, rates: { upload: null, broadcast: null, tensor: null } };
  assert.match(
    whyNotParts(manifest, group(0, 1), shares, alternative)!,
    /of which rank 1 needs a part, is in the memory of the device of rank 0$/,
  );
  assert.equal(whyNotParts(manifest, group(0), shares.slice(1), alternative), null);
});

test('its files are loaded by the rank on the device that they name, or refused by the name of the device', () => {
  const index = indexOf([
    { tensors: [10, 10], shared: true },
    { tensors: [7], shared: true },
  ]);
  const files = index.files.map((file, at) => ({
    ...file,
    path: `${directory}/session-0a1b-1-${at}.device`,
    device: `GPU-${at + 1}`,
  }));
  const identitiesOf = new Map([['a', files.map(({ identity }) => identity)]]);
  const order = { checkpoint: 'c', segmentName: 's', spare: [], identitiesOf, index: { ...index, files } };
  const ranks = [0, 1, 2].map((rank) => ({ rank, host: 'a', directory, deviceUuid: `GPU-${rank}` }));
  const { shares, segments } = assignFiles({ ...order, ranks });
  assert.deepEqual(
    shares.map(({ rank, manifest }) => [
      rank,
      manifest.names,
      manifest.segments.every(({ path }) => isOnDevice(path)),
    ]),
    [
      [1, ['f0.t0', 'f0.t1'], true],
      [2, ['f1.t0'], true],
    ],
  );
  assert.deepEqual(segments, []);
  assert.throws(() => assignFiles({ ...order, ranks: ranks.slice(0, 2) }), {
    name: 'CheckpointError',
    message: /memory of device GPU-2, on which no rank is: add the instance of an engine there/,
  });
});
