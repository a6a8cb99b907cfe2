/** One cold measurement for bench/plan.ts, in its own process: `plan-once.ts MODEL`; sends a PlanMeasurement. */
import assert from 'node:assert/strict';
import { decode, encode } from '@msgpack/msgpack';
import { dtypeIndex } from '../src/checkpoint/dtype.ts';
import {
  contentDigest,
  decodeManifest,
  encodeManifest,
  layoutDigests,
  type Manifest,
  mergeManifests,
} from '../src/checkpoint/manifest.ts';
import { alignUp } from '../src/plan/alignment.ts';
import { contiguousShares } from '../src/plan/contiguous-shares.ts';
import { PlanCache } from '../src/plan/plan-cache.ts';
import { measureParts, type PartsMeasurement } from './plan-parts.ts';
import { processorTime } from './processor-time.ts';
import { bytesOfTensor, type ListedTensor, type ModelName, tensorList } from './tensor-lists.ts';

export const rankCount = 256;
export const hostCount = 32;

export interface PlanMeasurement {
  readonly tensors: number;
  readonly checkpointBytes: number;
  readonly buckets: number;
  readonly encodedBytes: number;
  /** Milliseconds of processor time. */
  readonly encode: number;
  readonly gather: number;
  readonly merge: number;
  readonly digests: number;
  readonly plan: number;
  readonly unchanged: number;
  readonly parts: PartsMeasurement;
  /** Bytes. */
  readonly retained: number;
  readonly peakResident: number;
}

const hostOf = (rank: number) => `host-${Math.floor(rank / (rankCount / hostCount))}`;

/** The manifest of a rank that has loaded `tensors` into its own segment. */
function rankManifest(tensors: readonly ListedTensor[], rank: number): Manifest {
  const bytes = Float64Array.from(tensors, bytesOfTensor);
  const offsets = new Float64Array(tensors.length);
  let segmentBytes = 0;
  for (const [row, size] of bytes.entries()) {
    offsets[row] = segmentBytes;
    segmentBytes += alignUp(size);
  }
  const shapeStarts = new Uint32Array(tensors.length + 1);
  for (const [row, { shape }] of tensors.entries()) shapeStarts[row + 1] = shapeStarts[row]! + shape.length;
  return {
    checkpoint: 'bench',
    names: tensors.map(({ name }) => name),
    dtypes: Uint8Array.from(tensors, ({ dtype }) => dtypeIndex(dtype)),
    shapeStarts,
    dimensions: Float64Array.from(tensors.flatMap(({ shape }) => shape)),
    bytes,
    segments: [
      { path: `/dev/shm/weightcast-bench/segment-${rank}`, bytes: segmentBytes, host: hostOf(rank), rank },
    ],
    segmentOf: new Uint32Array(tensors.length),
    offsets,
    digests: BigUint64Array.from(tensors, (_, row) => BigInt(rank * 1_000_003 + row) * 0x9e3779b97f4a7c15n),
  };
}

/** The manifests of all ranks, over which the tensors are spread evenly. */
function rankManifests(tensors: readonly ListedTensor[]): Manifest[] {
  const starts = contiguousShares(Float64Array.from(tensors, bytesOfTensor), rankCount);
  return Array.from({ length: rankCount }, (_, rank) =>
    rankManifest(tensors.slice(starts[rank]!, starts[rank + 1]!), rank),
  );
}

function timed<T>(work: () => T): [result: T, milliseconds: number] {
  const startedAt = processorTime();
  const result = work();
  return [result, processorTime() - startedAt];
}

function heldBytes(): number {
  assert.ok(globalThis.gc !== undefined, 'run with --expose-gc');
  globalThis.gc();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

const memoryOf = (update: number) =>
  Array.from({ length: rankCount }, (_, rank) => ({
    rank,
    host: hostOf(rank),
    // No two updates find the same amount of free memory.
    freeBytes: 20 * 2 ** 30 + rank * 4096 + update * 65_536,
  }));

async function measure(model: ModelName): Promise<PlanMeasurement> {
  const tensors = tensorList(model);
  const parts = rankManifests(tensors);
  const before = heldBytes();
  const [encoded, encodeTime] = timed(() => parts.map(encodeManifest));
  const [merged, gather, merge] = (() => {
    const [decoded, decodeTime] = timed(() => encoded.map(decodeManifest));
    const [manifest, mergeTime] = timed(() => mergeManifests(decoded));
    return [manifest, decodeTime, mergeTime] as const;
  })();
  const [{ lasting: layout }, layoutTime] = timed(() => layoutDigests(merged));
  const [, contentTime] = timed(() => contentDigest(merged));
  const cache = new PlanCache();
  const spending = { fraction: 0.9, bucketBytes: 32 * 2 ** 20 };
  const [plan, planTime] = timed(() =>
    cache.plan({ manifest: merged, layout, ranks: memoryOf(0), ...spending }),
  );

  // The next update: ranks answer `prepare` with the layout and the plan that they hold already, so neither manifests
  // nor plan are sent, merged or computed again.
  const answers = memoryOf(1).map((memory) => encode({ ...memory, layout, planDigest: plan.digest }));
  const [, unchanged] = timed(() => {
    const ranks = answers.map(
      (answer) => decode(answer) as ReturnType<typeof memoryOf>[0] & { layout: string; planDigest: string },
    );
    assert.ok(ranks.every((rank) => rank.layout === layout));
    const again = cache.plan({ manifest: merged, layout, ranks, ...spending });
    assert.ok(ranks.every(({ planDigest }) => planDigest === again.digest));
  });

  const encodedBytes = encoded.reduce((sum, { byteLength }) => sum + byteLength, 0);
  encoded.length = 0;
  const retained = heldBytes() - before;
  return {
    tensors: tensors.length,
    checkpointBytes: merged.bytes.reduce((sum, bytes) => sum + bytes, 0),
    buckets: plan.owners.length,
    encodedBytes,
    encode: encodeTime,
    gather,
    merge,
    digests: layoutTime + contentTime,
    plan: planTime,
    unchanged,
    parts: await measureParts(merged, layout),
    retained,
    peakResident: process.resourceUsage().maxRSS * 1024,
  };
}

process.send?.(await measure(process.argv[2] as ModelName));
