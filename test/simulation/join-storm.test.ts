import assert from 'node:assert/strict';
import { test } from 'node:test';
import { qwen3Tensors } from '../../scenarios/qwen3-model.ts';
import { allArrived } from '../../simulation/all-arrived.ts';
import { joinStorm } from '../../simulation/join-storm.ts';

const model = qwen3Tensors(8e9).map(({ name, shape }) => {
  return { name, dtype: 'BF16', shape: [shape.reduce((product, length) => product * length, 1)] };
});

/** For 64 joiners, see npm run bench:join-storm:simulated. */
test('eight concurrent joins take at most 1.5 times as long as one', async () => {
  const storm = { seed: 1, sources: 2, model, together: false };
  const one = await joinStorm({ ...storm, joiners: 1 });
  const eight = await joinStorm({ ...storm, joiners: 8 });
  assert.deepEqual([...one.violations, ...eight.violations], []);
  assert.ok(eight.reports.every(allArrived));
  const ratio = eight.milliseconds / one.milliseconds;
  assert.ok(ratio <= 1.5, `${eight.milliseconds} ms against ${one.milliseconds} ms`);
  // Joiners serve each other most of the bytes.
  const copies = eight.servedBySources / eight.reports[0]!.bytes;
  assert.ok(copies < 4, `the sources served ${copies} copies`);
});
