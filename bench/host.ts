/** `npm run bench:host`: an update on host devices, compared with plain memcpy of as many bytes on as many threads. */
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { writeQwen3Model } from '../scenarios/qwen3-model.ts';
import { startReferenceEngine } from '../scenarios/reference-engine/index.ts';
import { Cluster, type UpdateReport } from '../src/index.ts';
import { median } from './median.ts';
import { plainMemcpy } from './plain-memcpy.ts';
import { type Figure, writeReport } from './report.ts';

const bytes = 2 ** 30;
/** Node optimizes hot code during the first updates; a training run makes hundreds of updates. */
const warmUps = 10;
const rounds = 21;
const threads = availableParallelism();

interface Measurement {
  readonly updateRate: number;
  readonly memcpyRate: number;
  /** Of the whole update, and of one by parts right after it. */
  readonly wholeSeconds: number;
  readonly partsSeconds: number;
}

/** Bytes that the three stages copy, which memcpy copies for comparison. */
function bytesCopied(report: UpdateReport, ranks: number): number {
  const { bytes: checkpoint } = report;
  // A single rank uploads directly into the link slot. Otherwise every rank, the owner included, copies from the owner's
  // staging slot. Workers copy their slices, which together make up the checkpoint (replicated tensors are small).
  const broadcast = ranks === 1 ? 0 : ranks * checkpoint;
  return checkpoint + broadcast + checkpoint;
}

async function measure(ranks: number): Promise<Measurement[]> {
  const scratch = mkdtempSync(join(tmpdir(), 'weightcast-bench-'));
  const deviceNamespace = basename(scratch);
  const model = join(scratch, 'model');
  await writeQwen3Model({ directory: model, bytes, seed: 1 });
  const engine = await startReferenceEngine({
    name: 'bench',
    model,
    ranks,
    deviceNamespace,
    deviceCapacity: 2 * bytes,
    keepsParts: true,
  });
  try {
    const instances = [{ name: 'engine', endpoint: engine.endpoint, ranks: [...Array(ranks).keys()] }];
    const cluster = await Cluster.start({
      ranks,
      instances,
      devices: { kind: 'host', namespace: deviceNamespace },
    });
    try {
      await cluster.register('step', model);
      // From here on it is known what the workers keep.
      await cluster.update('step', { verify: false });
      const measurements: Measurement[] = [];
      for (let round = 0; round < warmUps + rounds; round += 1) {
        const report = await cluster.update('step', { verify: false, parts: false });
        const copied = bytesCopied(report, ranks);
        const byParts = await cluster.update('step', { verify: false });
        measurements.push({
          updateRate: copied / report.seconds,
          memcpyRate: await plainMemcpy(copied, threads),
          wholeSeconds: report.seconds,
          partsSeconds: fedByParts(byParts, ranks),
        });
      }
      return measurements;
    } finally {
      await cluster.stop();
    }
  } finally {
    await engine.stop();
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Its duration. One worker keeps all there is. */
function fedByParts({ seconds, instances }: UpdateReport, ranks: number): number {
  const fed = instances[0]!.fed;
  if (fed !== (ranks === 1 ? 'whole' : 'parts'))
    throw new Error(`${ranks} ranks were fed ${fed}: ${instances[0]!.whyWhole}`);
  return seconds;
}

const ratioOf = (one: Measurement) => one.updateRate / one.memcpyRate;

function figuresOf(ranks: number, measurements: readonly Measurement[]): Figure[] {
  const name = ranks === 1 ? '1 rank' : `${ranks} ranks`;
  const [cold, warm] = [measurements.slice(1, warmUps), measurements.slice(warmUps)];
  const rate = (pick: (one: Measurement) => number) => median(warm.map(pick)) / 1e9;
  return [
    {
      name: `${name}: bytes copied by an update of 1 GiB`,
      value: rate((one) => one.updateRate),
      unit: 'GB/s',
    },
    { name: `${name}: plain memcpy of as many bytes`, value: rate((one) => one.memcpyRate), unit: 'GB/s' },
    {
      name: `${name}: update / memcpy`,
      value: median(warm.map(ratioOf)),
      unit: '',
      atLeast: 0.8,
    },
    {
      name: `${name}: of updates 2 to ${warmUps}, update / memcpy`,
      value: median(cold.map(ratioOf)),
      unit: '',
    },
    ...(ranks === 1 ? [] : partsFigures(name, warm)),
  ];
}

function partsFigures(name: string, measurements: readonly Measurement[]): Figure[] {
  const milliseconds = (pick: (one: Measurement) => number) => median(measurements.map(pick)) * 1_000;
  return [
    { name: `${name}: update by whole tensors`, value: milliseconds((one) => one.wholeSeconds), unit: 'ms' },
    { name: `${name}: update by parts`, value: milliseconds((one) => one.partsSeconds), unit: 'ms' },
    {
      name: `${name}: by parts / by whole tensors`,
      value: median(measurements.map((one) => one.partsSeconds / one.wholeSeconds)),
      unit: '',
      atMost: 0.8,
    },
  ];
}

const figures: Figure[] = [];
for (const ranks of [1, 2]) figures.push(...figuresOf(ranks, await measure(ranks)));
writeReport({
  name: 'host',
  title: 'An update on host devices',
  command: 'npm run bench:host',
  method:
    `A checkpoint of 1 GiB in shared memory, brought into a running reference engine; the whole update counts, from ` +
    `prepare to commit. Compared with memcpy, ${threads} threads, of as many bytes as the stages copy (h2d, broadcast ` +
    `and reload), measured in turn with the updates. By parts: each of two tensor-parallel workers gets only what it keeps, in turn with whole tensors. Medians of ${rounds} updates after the first ${warmUps}.`,
  figures,
});
process.exit();
