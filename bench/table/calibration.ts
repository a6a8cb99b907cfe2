import { readFileSync } from 'node:fs';
import { packageRoot } from '../../src/package-root.ts';
import { layerTensors, usualLayer } from '../gpu/checkpoint.ts';
import type { Figure } from '../report.ts';
import type { ListedTensor } from '../tensor-lists.ts';
import { streamMilliseconds } from './pipeline.ts';
import { membersOf, planCluster } from './planned.ts';
import { measured, oneByOne, type Speeds } from './speeds.ts';

/** A run that exists: the file of bench/results that has it, and how its figures begin. */
interface Run {
  readonly file: string;
  readonly name: string;
  readonly gpus: number;
  readonly speeds?: Partial<Speeds>;
}

/** Copies go at the rate of collective.md, and their end is told and not polled. */
const copies = { ...oneByOne, broadcast: 246e6, broadcastStart: 0.02, notice: 0.1 };

const runs: readonly Run[] = [
  { file: 'gpu', name: '1 rank, our worker', gpus: 1 },
  { file: 'gpu-h100', name: '1 rank, our worker', gpus: 1, speeds: oneByOne },
  { file: 'gpu-h100', name: '2 ranks on 2 GPUs, nccl', gpus: 2, speeds: oneByOne },
  { file: 'gpu-h100', name: '2 ranks on 2 GPUs, copies', gpus: 2, speeds: copies },
];

/** The model of bench:gpu. */
function benchedModel(): ListedTensor[] {
  return Array.from({ length: 42 }, (_, layer) => layerTensors(layer, usualLayer)).flat();
}

export interface Calibrated {
  readonly name: string;
  /** Milliseconds. */
  readonly simulated: number;
  readonly measured: number;
}

/** Streaming and whole updates of the runs that exist, at the pinned H2D rate that each of them measured itself. */
export function calibrations(): Calibrated[] {
  const model = benchedModel();
  return runs.flatMap(({ file, name, gpus, speeds }) => {
    const path = new URL(`bench/results/${file}.json`, packageRoot);
    const { figures } = JSON.parse(readFileSync(path, 'utf8')) as { readonly figures: readonly Figure[] };
    const of = (what: string) => figures.find((figure) => figure.name === `${name}: ${what}`)!.value;
    const members = membersOf(gpus, gpus);
    const { plan } = planCluster(model, members);
    const all = { ...measured, upload: (of('pinned H2D') * 1e6) / gpus, ...speeds };
    const stream = streamMilliseconds({ plan, speeds: all, hostOf: () => 'node-0' });
    const label = `${name} (${file}.md)`;
    return [
      { name: `${label}, streaming`, simulated: stream, measured: of('first upload to last answer') },
      { name: `${label}, whole update`, simulated: stream + all.fixed, measured: of('all') },
    ];
  });
}
