import assert from 'node:assert/strict';
import { test } from 'node:test';
import { faultKinds } from '../../simulation/faults.ts';
import { type RunResult, run } from '../../simulation/run.ts';
import { simulate } from './harness-process.ts';

const seeds = [2, 5, 13, 21, 34, 55];
const everything = Number.POSITIVE_INFINITY;

const runs = new Map<number, Promise<RunResult>>();

/** The first run of a seed, which the tests compare with others. */
function firstRun(seed: number): Promise<RunResult> {
  const first = runs.get(seed) ?? run({ seed, keepTrace: everything });
  runs.set(seed, first);
  return first;
}

/** Keeps the event loop busy with unrelated timers and callbacks. */
function disturbEventLoop(): () => void {
  const timer = setInterval(() => setImmediate(() => process.nextTick(() => {})), 0);
  return () => clearInterval(timer);
}

test('the same seed gives the same run, event for event, whatever else the process does', async () => {
  for (const seed of seeds) {
    const first = await firstRun(seed);
    const stopDisturbing = disturbEventLoop();
    const second = await run({ seed, keepTrace: everything });
    stopDisturbing();
    assert.ok(first.trace.length > 50);
    assert.deepEqual(second.trace, first.trace, `seed ${seed}`);
    assert.equal(second.digest, first.digest);
  }
});

test('the same seed gives the same run in another process', async () => {
  const seed = 21;
  const { output } = await simulate('--seed', seed);
  const { digest } = await firstRun(seed);
  assert.ok(output.includes(`digest ${digest}`), output.slice(-400));
});

test('different seeds give different runs', async () => {
  const digests = new Set<string>();
  for (const seed of seeds) digests.add((await firstRun(seed)).digest);
  assert.equal(digests.size, seeds.length);
});

test('messages of past epochs change nothing else in the run', async () => {
  const faults = faultKinds.filter((kind) => kind !== 'forged messages');
  const withoutForger = ({ trace }: RunResult) => trace.filter((line) => !line.includes('forger~1'));
  const forge = { everyMilliseconds: 5, times: 1_000 };
  let refused = 0;
  for (const seed of seeds) {
    const plain = await run({ seed, faults, keepTrace: everything });
    const forged = await run({ seed, faults, keepTrace: everything, forge });
    assert.deepEqual(forged.violations, []);
    assert.deepEqual(withoutForger(forged), withoutForger(plain), `seed ${seed}`);
    refused += forged.refused;
  }
  assert.ok(refused > 1_000, `only ${refused} forged messages were refused`);
});
