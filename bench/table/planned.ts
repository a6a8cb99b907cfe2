import {
  contentDigest,
  layoutDigests,
  type Manifest,
  mergeManifests,
} from '../../src/checkpoint/manifest.ts';
import { planUpdate } from '../../src/plan/buckets.ts';
import { fusedUnits } from '../../src/plan/fused-tensors.ts';
import { sentParts } from '../../src/plan/kept-parts.ts';
import { assignFiles } from '../../src/plan/load-assignment.ts';
import { usualBucketBytes } from '../../src/plan/memory-budget.ts';
import { shareOf, tensorsIfSpared, type UpdateRates, whyNotParts } from '../../src/plan/parts-choice.ts';
import { planParts } from '../../src/plan/parts-plan.ts';
import type { Plan } from '../../src/plan/plan.ts';
import { planReception } from '../../src/plan/reception.ts';
import { cutSlices } from '../../src/plan/slices.ts';
import { announcedRows, unclaimedRows } from '../../src/plan/sparing.ts';
import { processorTime } from '../processor-time.ts';
import { indexOf } from '../supervisor/large-checkpoint.ts';
import type { ListedTensor } from '../tensor-lists.ts';
import { keptCuts, keptCutsByExpert } from './kept-cuts.ts';

/** Beside an engine that serves. */
const freeBytes = 6 * 2 ** 30;
/** As ranks with a GPU of their own ask for. */
const bucketBytes = 256 * 2 ** 20;
const fraction = 0.9;

export interface Member {
  readonly rank: number;
  readonly host: string;
}

/** Ranks in order, `perHost` on each host; the first has number `first`. */
export function membersOf(ranks: number, perHost: number, first = 0): Member[] {
  return Array.from({ length: ranks }, (_, index) => {
    return { rank: first + index, host: `node-${Math.floor((first + index) / perHost)}` };
  });
}

/** A checkpoint that is registered by all ranks, as the planner deals it out, and what one update of them all does. */
export interface PlannedCluster {
  readonly manifest: Manifest;
  readonly plan: Plan;
  /** Milliseconds of this machine's processor time: for the shares of all ranks to become one manifest with its digests; for the plan. */
  readonly gather: number;
  readonly planning: number;
}

export function planCluster(tensors: readonly ListedTensor[], members: readonly Member[]): PlannedCluster {
  const index = indexOf(tensors);
  const identities = index.files.map(({ identity }) => identity);
  const { shares } = assignFiles({
    checkpoint: 'table',
    index,
    identitiesOf: new Map(members.map(({ host }) => [host, identities])),
    segmentName: 'segment-',
    ranks: members.map((member) => ({ ...member, directory: '/dev/shm/weightcast-table' })),
    spare: [],
  });
  const [manifest, gather] = timed(() => {
    const merged = mergeManifests(shares.map((share) => share.manifest));
    contentDigest(merged);
    return merged;
  });
  const { lasting: layout } = layoutDigests(manifest);
  const ranks = members.map((member) => ({ ...member, freeBytes }));
  const usual = usualBucketBytes(bucketBytes, ranks, fraction);
  const [plan, planning] = timed(() => planUpdate({ manifest, layout, ranks, fraction, bucketBytes: usual }));
  return { manifest, plan, gather, planning };
}

/**
 * The plan of one of `parallel` ranks of one host, each of which is sent what it keeps by the rules of vLLM's parallel layers;
 * all have as much.
 */
export function planShare(
  manifest: Manifest,
  members: readonly Member[],
  parallel: number,
  rates: UpdateRates,
): Plan {
  const [member] = members;
  const kept = Array.from({ length: parallel }, (_, rank) => keptCuts(manifest, { ranks: parallel, rank }));
  const [sent] = sentParts(manifest, kept);
  const why = whyNotParts(manifest, [member!], [shareOf(manifest, sent!)], {
    sharing: members.length,
    rates,
  });
  if (why !== null) throw new Error(why);
  const { lasting: layout } = layoutDigests(manifest);
  const rank = { ...member!, freeBytes };
  const units = fusedUnits(manifest, []);
  return planParts({ manifest, layout, rank, sent: sent!, units, fraction, bucketBytes }).plan;
}

/**
 * Of whole tensors, what is announced to each worker of an instance whose `experts` of each layer are divided among its workers, by the
 * manifest's rows.
 */
export function announcedByExpert(manifest: Manifest, parallel: number, experts: number): Uint8Array[] {
  const kept = Array.from({ length: parallel }, (_, rank) => {
    return keptCutsByExpert(manifest, { ranks: parallel, rank }, experts);
  });
  const sent = sentParts(manifest, kept);
  const shares = sent.map((one) => shareOf(manifest, one));
  if (tensorsIfSpared(shares) >= manifest.names.length) throw new Error('all tensors would be announced');
  return kept.map((own, rank) => {
    return announcedRows(own, rank === 0 ? unclaimedRows(own, sent[0]!) : new Uint32Array());
  });
}

/** What ranks without a byte of the checkpoint receive from those that have it, and what an update of them does. */
export interface PlannedJoin {
  readonly plan: Plan;
  /** Bytes that each rank receives. */
  readonly received: ReadonlyMap<number, number>;
}

export function planJoin(
  manifest: Manifest,
  sources: readonly Member[],
  joining: readonly Member[],
): PlannedJoin {
  const asFabric = ({ rank, host }: Member) => {
    return { rank, host, directory: '/dev/shm/weightcast-table', nics: [`nic-${rank}`] };
  };
  const reception = planReception({
    manifest,
    slices: cutSlices(manifest),
    units: fusedUnits(manifest, []),
    ranks: joining.map(asFabric),
    sources: [...sources, ...joining].map(asFabric),
    copies: [],
    mirrorName: 'mirror-',
  })!;
  const received = new Map(joining.map(({ rank }) => [rank, 0]));
  for (const { receiver, bytes } of reception.mirrors)
    received.set(receiver, received.get(receiver)! + bytes);
  const arriving = new Set(reception.mirrors.map(({ path }) => path));
  const ranks = joining.map((member) => ({ ...member, freeBytes }));
  const plan = planUpdate({
    manifest: reception.manifest,
    ranks,
    fraction,
    bucketBytes: usualBucketBytes(bucketBytes, ranks, fraction),
    arriving,
  });
  return { plan, received };
}

function timed<T>(work: () => T): [result: T, milliseconds: number] {
  const startedAt = processorTime();
  const result = work();
  return [result, processorTime() - startedAt];
}
