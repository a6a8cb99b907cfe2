/** The planning by parts of one instance, for bench/plan.ts. */
import assert from 'node:assert/strict';
import { setImmediate } from 'node:timers/promises';
import { PartsPlanner } from '../src/actors/planner/parts-planner.ts';
import { cutsDigest } from '../src/checkpoint/cuts.ts';
import { type Manifest, tensorsDigest } from '../src/checkpoint/manifest.ts';
import { fusedUnits } from '../src/plan/fused-tensors.ts';
import { noRates } from '../src/plan/parts-choice.ts';
import { processorTime } from './processor-time.ts';
import { keptCuts } from './table/kept-cuts.ts';

/** Ranks of the instance, all on one host, which has all bytes. */
export const parallel = 8;

export interface PartsMeasurement {
  /** Milliseconds of processor time. */
  readonly cold: number;
  /** What others of the process wait for at most meanwhile. */
  readonly longestStep: number;
  readonly unchanged: number;
}

export async function measureParts(spread: Manifest, layout: string): Promise<PartsMeasurement> {
  const host = 'host-0';
  const manifest = { ...spread, segments: spread.segments.map((segment) => ({ ...segment, host })) };
  let longestStep = 0;
  let since = processorTime();
  const stepEnds = () => {
    longestStep = Math.max(longestStep, processorTime() - since);
  };
  const planner = new PartsPlanner(async () => {
    stepEnds();
    await setImmediate();
    since = processorTime();
  });
  const tensors = tensorsDigest(manifest);
  const ranks = Array.from({ length: parallel }, (_, rank) => {
    const cuts = keptCuts(manifest, { ranks: parallel, rank });
    const digest = cutsDigest(cuts);
    planner.learn(digest, cuts);
    return { rank, host, freeBytes: 6 * 2 ** 30, waiting: null, kept: [{ tensors, digest }] };
  });
  const units = fusedUnits(manifest, []);
  const planAll = async (update: number) => {
    since = processorTime();
    const startedAt = since;
    const { outcome } = await planner.plan(
      {
        type: 'plan-parts',
        layout,
        // No two updates find the same amount of free memory.
        ranks: ranks.map((one) => ({ ...one, freeBytes: one.freeBytes + update * 65_536 })),
        lost: [],
        memoryFraction: 0.9,
        bucketBytes: 256 * 2 ** 20,
        fused: [],
        whole: { sharing: parallel, rates: noRates },
      },
      { manifest, layout, units },
    );
    assert.equal(outcome, 'parts');
    stepEnds();
    return processorTime() - startedAt;
  };
  const cold = await planAll(0);
  const longest = longestStep;
  return { cold, longestStep: longest, unchanged: await planAll(1) };
}
