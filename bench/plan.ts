/** `npm run bench:plan`: how long it takes to plan an update of the largest open models over 256 ranks. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { median } from './median.ts';
import { hostCount, type PlanMeasurement, rankCount } from './plan-once.ts';
import { parallel } from './plan-parts.ts';
import { type Figure, writeReport } from './report.ts';
import { type ModelName, modelNames } from './tensor-lists.ts';

const repetitions = 3;
const deadlineMilliseconds = 300_000;

/** In a new process, because optimized code and memory of an earlier measurement would improve a later one. */
async function measureOnce(model: ModelName): Promise<PlanMeasurement> {
  const child = fork(fileURLToPath(new URL('plan-once.ts', import.meta.url)), [model], {
    execArgv: [...process.execArgv, '--expose-gc'],
    timeout: deadlineMilliseconds,
    killSignal: 'SIGKILL',
  });
  const [outcome] = (await Promise.race([once(child, 'message'), once(child, 'exit')])) as [
    PlanMeasurement | number,
  ];
  if (typeof outcome !== 'object' || outcome === null) throw new Error(`measuring ${model} failed`);
  await once(child, 'exit');
  return outcome;
}

function figuresOf(model: ModelName, runs: readonly PlanMeasurement[]): Figure[] {
  const of = (pick: (run: PlanMeasurement) => number) => median(runs.map(pick));
  const milliseconds = (name: string, pick: (run: PlanMeasurement) => number, atMost?: number): Figure => ({
    name: `${model}: ${name}`,
    value: of(pick),
    unit: 'ms',
    ...(atMost === undefined ? {} : { atMost }),
  });
  const mebibytes = (name: string, pick: (run: PlanMeasurement) => number): Figure => ({
    name: `${model}: ${name}`,
    value: of(pick) / 2 ** 20,
    unit: 'MiB',
  });
  const cold = ({ encode, gather, merge, digests, plan }: PlanMeasurement) =>
    encode + gather + merge + digests + plan;
  return [
    { name: `${model}: tensors`, value: of((run) => run.tensors), unit: '' },
    { name: `${model}: checkpoint`, value: of((run) => run.checkpointBytes) / 1e9, unit: 'GB' },
    { name: `${model}: buckets`, value: of((run) => run.buckets), unit: '' },
    milliseconds(`encode ${rankCount} manifests`, (run) => run.encode),
    milliseconds('gather (decode and validate)', (run) => run.gather),
    milliseconds('merge', (run) => run.merge),
    milliseconds('layout and content digest', (run) => run.digests),
    milliseconds('plan', (run) => run.plan),
    milliseconds('cold, all of these', cold, 1000),
    milliseconds('unchanged layout', (run) => run.unchanged, 10),
    milliseconds(`${parallel} ranks by parts, cold`, (run) => run.parts.cold, 1000),
    milliseconds(`${parallel} ranks by parts, the longest step of it`, (run) => run.parts.longestStep, 500),
    milliseconds(`${parallel} ranks by parts, unchanged`, (run) => run.parts.unchanged, 10),
    mebibytes('manifests as sent', (run) => run.encodedBytes),
    mebibytes('kept: merged manifest and plan', (run) => run.retained),
    mebibytes('peak resident, the benchmark included', (run) => run.peakResident),
  ];
}

const figures: Figure[] = [];
for (const model of modelNames) {
  const runs: PlanMeasurement[] = [];
  for (let run = 0; run < repetitions; run += 1) runs.push(await measureOnce(model));
  figures.push(...figuresOf(model, runs));
}
writeReport({
  name: 'plan',
  title: 'Planning an update',
  command: 'npm run bench:plan',
  method:
    `Tensor lists of published models, spread evenly over ${rankCount} ranks on ${hostCount} hosts. Median of ${repetitions} runs, in processor time, ` +
    'each in a fresh process and so without warm code. Encoding is summed over all ranks, which really work side by side. By parts: an ' +
    'instance on one host that has all bytes, of whose ranks each is sent what it keeps by the rules of vLLM; others of the process have ' +
    'their turn between the steps.',
  figures,
});
