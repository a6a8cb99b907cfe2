import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { FaultKind } from '../../simulation/faults.ts';
import { run } from '../../simulation/run.ts';
import { failedSeeds, simulate } from './harness-process.ts';

/** CI runs hundreds; more of them: npm run simulate -- --seeds 10000 */
const seeds = 20;

test(`no invariant breaks in ${seeds} random clusters with faults at random moments`, async () => {
  const { code, output } = await simulate('--seeds', seeds);
  assert.deepEqual(failedSeeds(output), [], output);
  assert.equal(code, 0, output);
  const [, runs, faults] = /^(\d+) runs, (\d+) faults, /m.exec(output) ?? assert.fail(output);
  assert.equal(Number(runs), seeds, output);
  assert.ok(Number(faults) > seeds, `${faults} faults`);
});

/** Harm that must cost nothing. */
const harmless: readonly FaultKind[] = ['forged messages'];

test('without faults that cost an update no update fails', async () => {
  for (let seed = 1; seed <= 8; seed += 1) {
    const { violations, reasons, succeeded } = await run({ seed, faults: harmless, leaving: false });
    assert.deepEqual(violations, [], `seed ${seed}`);
    assert.ok(succeeded > 0);
    // What a user asks for in vain: a checkpoint that is not there, or two things at once.
    const others = reasons.filter(
      (code) => !['WEIGHTCAST_USAGE', 'WEIGHTCAST_BUSY', 'WEIGHTCAST_CHECKPOINT'].includes(code),
    );
    assert.deepEqual(others, [], `seed ${seed}`);
  }
});
