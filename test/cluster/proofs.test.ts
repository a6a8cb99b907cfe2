/** What an engine holds after an update, which its arrived bytes do not tell: the second proof. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Baseline, type InstanceReport, type UpdateOptions } from '../../src/index.ts';
import { Command } from '../scenarios/command.ts';
import { startBench } from './harness.ts';

const spoiled = 'model.norm.weight';
/** In the first update the model of one of its workers makes something else of a tensor. */
const bench = await startBench(
  { after },
  { ranks: 2, faults: { misloadsTensor: spoiled, rank: 1, once: true } },
);
const { cluster, engine, makeModel, scratch } = bench;
for (const [name, seed] of [
  ['a', 2],
  ['b', 3],
] as const) {
  await cluster.register(name, await makeModel(seed));
}

async function installed(name: string, options: UpdateOptions = {}) {
  const { instances } = await cluster.update(name, options);
  const [{ proofs }] = instances as [InstanceReport];
  assert.equal(proofs.arrived, 'holds');
  return proofs.installed;
}

const fails = (name: string, message: RegExp, options: UpdateOptions = {}) =>
  assert.rejects(cluster.update(name, options), { name: 'VerificationError', message });

test('one engine is compared with what it held after the same version before: one of both is wrong', async () => {
  assert.equal(await installed('a'), 'unknown', 'nobody holds the same');
  await fails(
    'a',
    /^instance engine: the engine worker of rank 1 holds other weights than after an earlier update to the same version: model\.norm\.weight; /,
  );
  assert.equal((await cluster.status()).instances[0]!.state, 'broken');
  // Of both, nobody knows which was right: it begins anew.
  assert.equal(await installed('a'), 'unknown');
  assert.equal(await installed('a'), 'consistent');
  assert.equal((await cluster.status()).instances[0]!.state, 'serving');
});

test('the command writes down what an engine holds, and an update demands it', async (t) => {
  const file = join(scratch, 'baseline.json');
  const target = ['--endpoint', engine.endpoint, engine.endpoint, '--output', file];
  const { code, output, errors } = await new Command(t, 'src/cli/main.ts', 'baseline', ...target).ended;
  assert.deepEqual([code, errors], [0, '']);
  assert.match(output, /^target, tp 0 of 2: \d+ tensors\ntarget, tp 1 of 2: \d+ tensors\n$/);
  assert.match(readFileSync(file, 'utf8'), /"model\.norm\.weight BF16\[\d+\]"/);
  assert.equal(await installed('a', { verify: { baseline: file } }), 'holds');
  const baseline = await Baseline.of([{ endpoint: engine.endpoint }]);
  await fails('b', /holds other weights than the baseline: .* and \d+ more; instance engine is broken/, {
    verify: { baseline },
  });
  assert.equal(await installed('a', { verify: { baseline } }), 'holds');
  await assert.rejects(cluster.update('a', { verify: { installed: false, baseline } }), {
    name: 'UsageError',
    message: /verify\.installed must not be false/,
  });
  await assert.rejects(cluster.update('a', { verify: { baseline: join(scratch, 'none') } }), {
    name: 'UsageError',
    message: /cannot read the baseline .*none/,
  });
});
