/** What is kept between updates by parts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PartsPlanner } from '../../../src/actors/planner/parts-planner.ts';
import { type Cuts, cutsDigest } from '../../../src/checkpoint/cuts.ts';
import { layoutDigests, tensorsDigest } from '../../../src/checkpoint/manifest.ts';
import { fusedUnits } from '../../../src/plan/fused-tensors.ts';
import { noRates } from '../../../src/plan/parts-choice.ts';
import { manifestOf, segmentOf } from '../../plan/manifests.ts';

const tensorBytes = 2 ** 16;
const rows = Array.from({ length: 4 }, (_, layer) => {
  const place = { segment: 0, offset: layer * tensorBytes };
  return {
    name: `layers.${layer}.weight`,
    bytes: tensorBytes,
    ...place,
    dtype: 'U8',
    shape: [512, tensorBytes / 512],
  };
});
const manifest = manifestOf(rows, [segmentOf(0, 'a')]);
const checkpoint = { manifest, layout: layoutDigests(manifest).lasting, units: fusedUnits(manifest, []) };
const tensors = tensorsDigest(manifest);

/** What each of so many workers keeps: as much of each tensor. */
function keptOf(workers: number): Cuts[] {
  return Array.from({ length: workers }, (_, worker) => ({
    dims: new Uint8Array(rows.length),
    starts: new Uint32Array(rows.length).fill((worker * 512) / workers),
    lengths: new Uint32Array(rows.length).fill(512 / workers),
  }));
}

function questionOf(firstRank: number, cuts: readonly Cuts[], host = 'a') {
  const ranks = cuts.map((one, at) => {
    return { rank: firstRank + at, host, freeBytes: 2 ** 30, kept: [{ tensors, digest: cutsDigest(one) }] };
  });
  const limits = {
    memoryFraction: 0.5,
    bucketBytes: 2 ** 20,
    fused: [],
    lost: [],
    whole: { sharing: 2, rates: noRates },
  };
  return { type: 'plan-parts', layout: '', ranks, ...limits } as unknown as Parameters<
    PartsPlanner['plan']
  >[0];
}

async function plansOf(planner: PartsPlanner, question: ReturnType<typeof questionOf>) {
  const answer = await planner.plan(question, checkpoint);
  assert.equal(answer.outcome, 'parts');
  return answer.outcome === 'parts' ? answer.plans : [];
}

test('however many instances there are, an update like the one before is not planned again', async () => {
  const planner = new PartsPlanner(async () => {});
  const cuts = keptOf(2);
  for (const one of cuts) planner.learn(cutsDigest(one), one);
  const questions = Array.from({ length: 20 }, (_, instance) => questionOf(instance * 2, cuts));
  const before = await Promise.all(questions.map((question) => plansOf(planner, question)));
  for (const [instance, question] of questions.entries()) {
    const after = await plansOf(planner, question);
    for (const [at, plan] of after.entries()) {
      assert.equal(plan, before[instance]![at], 'the very plan');
      assert.deepEqual([...plan.ranks], [instance * 2 + at]);
      assert.deepEqual([...plan.cuts!.starts], Array(rows.length).fill(at * 256));
    }
  }
});

test('a rank number that has come to another place in its instance gets the parts of that place', async () => {
  const planner = new PartsPlanner(async () => {});
  const cuts = keptOf(2);
  for (const one of cuts) planner.learn(cutsDigest(one), one);
  await plansOf(planner, questionOf(0, cuts));
  const [plan] = await plansOf(planner, questionOf(1, cuts));
  assert.deepEqual([...plan!.ranks], [1]);
  assert.deepEqual([...plan!.cuts!.starts], Array(rows.length).fill(0));
});

test('instances whose workers keep the same are each told of their own hosts', async () => {
  const planner = new PartsPlanner(async () => {});
  const cuts = keptOf(2);
  for (const one of cuts) planner.learn(cutsDigest(one), one);
  await plansOf(planner, questionOf(0, cuts));
  const answer = await planner.plan(questionOf(2, cuts, 'b'), checkpoint);
  assert.match(
    answer.outcome === 'whole' ? answer.why : '',
    /of which rank 2 needs a part, lies on host a and not on b/,
  );
});

test('an instance may have more workers than a host has, each of which keeps something else', async () => {
  const planner = new PartsPlanner(async () => {});
  const cuts = keptOf(128);
  for (const one of cuts) planner.learn(cutsDigest(one), one);
  assert.equal((await plansOf(planner, questionOf(0, cuts))).length, 128);
});
