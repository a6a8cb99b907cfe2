/** `npm run bench:simulation`: how large a cluster one process can simulate, and how fast. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { run } from '../simulation/run.ts';
import { type Figure, writeReport } from './report.ts';
import type { ScaleMeasurement } from './simulation-once.ts';

const bucketCount = 16;
const clusterSizes = [256, 1_024, 4_096];
const seedCount = 300;
const deadlineMilliseconds = 300_000;

async function measure(ranks: number, buckets: number): Promise<ScaleMeasurement> {
  const child = fork(
    fileURLToPath(new URL('simulation-once.ts', import.meta.url)),
    [String(ranks), String(buckets)],
    { timeout: deadlineMilliseconds, killSignal: 'SIGKILL' },
  );
  const [outcome] = (await Promise.race([once(child, 'message'), once(child, 'exit')])) as [unknown];
  if (typeof outcome !== 'object' || outcome === null) throw new Error(`measuring ${ranks} ranks failed`);
  await once(child, 'exit');
  return outcome as ScaleMeasurement;
}

/** Microseconds of real time per bucket and rank. */
function costOf({ phases }: ScaleMeasurement, ranks: number): number {
  return (phases.update * 1e6) / (ranks * bucketCount);
}

const figures: Figure[] = [];
const costs: number[] = [];
for (const ranks of clusterSizes) {
  const measured = await measure(ranks, bucketCount);
  const { phases, events, peakResident } = measured;
  const named = (name: string) => `${ranks} ranks: ${name}`;
  costs.push(costOf(measured, ranks));
  figures.push(
    { name: named('start'), value: phases.start, unit: 's' },
    { name: named(`update of ${bucketCount} buckets`), value: phases.update, unit: 's' },
    { name: named('stop'), value: phases.stop, unit: 's' },
    { name: named('events'), value: events, unit: '' },
    { name: named('peak resident'), value: peakResident, unit: 'MiB' },
    { name: named('update, a bucket on a rank'), value: costs.at(-1)!, unit: 'µs' },
  );
}
figures.push({
  name: `a bucket on a rank, ${clusterSizes.at(-1)} ranks to ${clusterSizes[0]}`,
  value: costs.at(-1)! / costs[0]!,
  unit: '',
  // It would be 16 if anything were quadratic in the number of ranks.
  atMost: 3,
});

const startedAt = performance.now();
let virtual = 0;
for (let seed = 1; seed <= seedCount; seed += 1) {
  const { violations, virtualMilliseconds } = await run({ seed });
  if (violations.length > 0) throw new Error(`seed ${seed}: ${violations.join('\n')}`);
  virtual += virtualMilliseconds;
}
const milliseconds = performance.now() - startedAt;
figures.push(
  { name: 'random clusters with faults', value: seedCount / (milliseconds / 1_000), unit: 'runs/s' },
  { name: 'virtual time to real time', value: virtual / milliseconds, unit: '', atLeast: 100 },
);

writeReport({
  name: 'simulation',
  title: 'Simulating a cluster in one process',
  command: 'npm run bench:simulation',
  method:
    'One update without faults of a cluster of each size, each in a fresh process, once: all actors and messages are ' +
    `real, devices and network are not. Then ${seedCount} runs of small clusters with faults at random moments. ` +
    'Times are real time; the memory is that of the whole process, the code included.',
  figures,
});
