/** `npm run bench:join-storm:simulated`: how much longer many concurrent joins take than a single one. */

import { qwen3Tensors } from '../scenarios/qwen3-model.ts';
import { allArrived } from '../simulation/all-arrived.ts';
import { joinStorm, type StormResult } from '../simulation/join-storm.ts';
import { type Figure, writeReport } from './report.ts';

const sourceCount = 2;
const modelBytes = 16e9;
const seeds = [1, 2, 3];
/** How many instances join, and how many times as long as a single join they may take. */
const stormSizes: readonly { readonly joiners: number; readonly atMost?: number }[] = [
  { joiners: 1 },
  { joiners: 8, atMost: 1.5 },
  { joiners: 64, atMost: 2.5 },
];

const model = qwen3Tensors(modelBytes).map(({ name, shape }) => {
  return { name, dtype: 'BF16', shape: [shape.reduce((product, length) => product * length, 1)] };
});

async function storm(seed: number, joiners: number, together: boolean): Promise<StormResult> {
  const result = await joinStorm({ seed, joiners, sources: sourceCount, model, together });
  if (result.violations.length > 0) throw new Error(`seed ${seed}: ${result.violations.join('\n')}`);
  if (!result.reports.every(allArrived))
    throw new Error(`seed ${seed}: not all bytes are proved to have arrived`);
  return result;
}

/** The worst result of all seeds. */
async function measure(joiners: number, together: boolean) {
  const worst = { seconds: 0, ratio: 0, copies: 0 };
  for (const seed of seeds) {
    const { milliseconds, servedBySources, reports } = await storm(seed, joiners, together);
    if (joiners === 1) alone.set(seed, milliseconds);
    worst.seconds = Math.max(worst.seconds, milliseconds / 1_000);
    worst.ratio = Math.max(worst.ratio, milliseconds / alone.get(seed)!);
    worst.copies = Math.max(worst.copies, servedBySources / reports[0]!.bytes);
  }
  return worst;
}

/** By seed, the duration of a single join. */
const alone = new Map<number, number>();
const figures: Figure[] = [];
for (const { joiners, atMost } of stormSizes) {
  for (const together of joiners === 1 ? [false] : [false, true]) {
    const { seconds, ratio, copies } = await measure(joiners, together);
    const how =
      joiners === 1 ? 'one joins' : `${joiners} join ${together ? 'by one update' : 'by one update each'}`;
    figures.push(
      { name: how, value: seconds, unit: 's' },
      { name: `${how}: copies that the sources give`, value: copies, unit: '' },
    );
    if (atMost !== undefined) figures.push({ name: `${how}, to one`, value: ratio, unit: '', atMost });
  }
}

writeReport({
  name: 'join-storm-simulated',
  title: 'Many instances that join at once, in virtual time',
  command: 'npm run bench:join-storm:simulated',
  method:
    `${sourceCount} instances hold a checkpoint like Qwen3's of ${modelBytes / 1e9} GB, each on a host of two ranks and one ` +
    'network card of 100 Gbit/s each way, shared max-min fairly; the others join at the same time, each on a host like ' +
    'that. All actors and messages are real, devices and network are simulated. Times are virtual: from when the joiners ' +
    'are added, including the start of their processes, until the last one serves, with a proof of what arrived. Messages between processes ' +
    'take half a millisecond at most, and what actors compute takes no time: what a supervisor needs for its part is not ' +
    `in these figures. The worst of seeds ${seeds.join(', ')}.`,
  figures,
});
