import { setTimeout as sleep } from 'node:timers/promises';
import { request } from 'undici';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import { describe } from '../../src/errors.ts';
import type { ClusterStatus } from '../../src/index.ts';
import { isRunning } from '../../src/processes/is-running.ts';
import { verifyWeights } from '../verify-weights.ts';
import type { FaultFleet, InstanceName } from './fleet.ts';
import { type CheckpointName, checkpoints } from './moments.ts';

/** What has been asked of an engine before a fault may still arrive after it. */
const settleMilliseconds = 5_000;
const pollMilliseconds = 100;
const requestMilliseconds = 5_000;

/**
 * What must hold right after a request was answered, whatever has happened: an instance that says which version it serves
 * holds that, bit by bit; an engine that is paused is said to be; only those that the
 * fault touched are broken; epochs grow. Engines that are dead are left out.
 */
export async function brokenInvariants(
  fleet: FaultFleet,
  before: ClusterStatus | null,
  touched: readonly InstanceName[],
): Promise<string[]> {
  const end = Date.now() + settleMilliseconds;
  for (;;) {
    const broken = await check(fleet, before, touched);
    if (broken.length === 0 || Date.now() > end) return broken;
    await sleep(pollMilliseconds);
  }
}

async function check(
  fleet: FaultFleet,
  before: ClusterStatus | null,
  touched: readonly InstanceName[],
): Promise<string[]> {
  const status = await fleet.owner.call('status').catch((error) => describe(error));
  if (typeof status === 'string') return [`there is no status: ${status}`];
  const broken: string[] = [];
  if (before !== null && status.epoch < before.epoch)
    broken.push(`epoch ${status.epoch} comes after ${before.epoch}`);
  for (const instance of status.instances) {
    const name = instance.name as InstanceName;
    if (instance.state === 'broken' && !touched.includes(name))
      broken.push(`instance ${name}, which the fault did not touch, is broken: ${instance.problem}`);
    const engine = fleet.engines.get(name)!;
    if (engine.pids.every(isRunning)) broken.push(...(await checkEngine(fleet, instance, engine.endpoint)));
  }
  return broken;
}

async function checkEngine(
  fleet: FaultFleet,
  { name, state, isPaused, version }: ClusterStatus['instances'][number],
  endpoint: string,
): Promise<string[]> {
  const broken: string[] = [];
  const paused = await isEnginePaused(endpoint);
  if (paused && !isPaused) broken.push(`engine ${name} is paused, and its status does not say so`);
  const seed = checkpoints[version?.checkpoint as CheckpointName];
  if (version === null || seed === undefined || state !== 'serving') return broken;
  const index = await openCheckpoint(await fleet.model(seed));
  await verifyWeights(endpoint, index).catch((error) => {
    broken.push(`instance ${name} says that it serves ${version.checkpoint}: ${describe(error)}`);
  });
  return broken;
}

async function isEnginePaused(endpoint: string): Promise<boolean> {
  const answer = await request(`${endpoint}/is_paused`, {
    headersTimeout: requestMilliseconds,
    bodyTimeout: requestMilliseconds,
  });
  return ((await answer.body.json()) as { is_paused: boolean }).is_paused;
}
