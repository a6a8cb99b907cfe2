/** What the planner keeps of registered checkpoints. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PlannerActor, plannerSpawnOptions } from '../../../src/actors/planner/planner.ts';
import { ask } from '../../../src/actors/protocol/ask.ts';
import { type PlannerMessage, toPlanner } from '../../../src/actors/protocol/planner.ts';
import { arrivalDigest, encodeManifest } from '../../../src/checkpoint/manifest.ts';
import { manifestOf, segmentOf } from '../../plan/manifests.ts';
import { makeSystem, soon } from '../kernel/harness.ts';

const ports = { openCheckpoint: () => Promise.reject(new Error('no files')), breathe: async () => {} };
const rows = (digest: bigint) => [{ name: 't', bytes: 8, segment: 0, offset: 0, digest }];
const checkpointOf = (digest: bigint) =>
  encodeManifest(manifestOf(rows(digest), [segmentOf(0, 'a')], `checkpoint-${digest}`));

/** A planner for which the checkpoints of `registered` are, by their layouts. */
function spawnPlanner(registered: ReadonlyMap<string, Uint8Array>) {
  const { system } = makeSystem();
  const recall = (layout: string) => registered.get(layout) ?? null;
  const create = () => new PlannerActor(ports, recall);
  const planner = system.spawn<PlannerMessage>('planner', create, plannerSpawnOptions);
  const adopt = (manifest: Uint8Array) => ask(system, planner, toPlanner.adopt, { manifest }, soon);
  const expected = async (layout: string) => {
    const rank = { rank: 0, host: 'a', directory: '', nics: [] };
    const question = {
      layout,
      ranks: [{ ...rank, freeBytes: 2 ** 30, waiting: null }],
      sources: [rank],
      copies: [],
      lost: [],
      mirrorName: 'mirror-',
      memoryFraction: 0.5,
      bucketBytes: 2 ** 20,
      fused: [],
    };
    return (await ask(system, planner, toPlanner.plan, question, soon)).expected;
  };
  return { adopt, expected };
}

test('two checkpoints of one file that was written in between are each expected as they were registered', async () => {
  const registered = new Map<string, Uint8Array>();
  const { adopt, expected } = spawnPlanner(registered);
  const first = await adopt(checkpointOf(1n));
  registered.set(first.layout, checkpointOf(1n));
  const second = await adopt(checkpointOf(2n));
  assert.equal(await expected(first.layout), arrivalDigest(BigUint64Array.of(1n)));
  assert.equal(await expected(second.layout), arrivalDigest(BigUint64Array.of(2n)));
});

test('what was merged for a registration that came to nothing is forgotten with the next one', async () => {
  const { adopt, expected } = spawnPlanner(new Map());
  const aborted = await adopt(checkpointOf(1n));
  await adopt(checkpointOf(2n));
  await assert.rejects(expected(aborted.layout), /no registered checkpoint has the layout/);
});
