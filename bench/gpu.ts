/**
 * `npm run bench:gpu`: whole updates into engine workers in Python, with real torch, on one GPU. WEIGHTCAST_PYTHON names
 * an interpreter with torch, pyzmq and msgpack; WEIGHTCAST_CHECKPOINT_ENGINE the original's worker.py, without which its
 * rows are left out; WEIGHTCAST_NCCL an NCCL 2.30.7 or newer, without which those through NCCL are. Arguments: the parts
 * to measure, of `one`, `original`, `fixed`, `shared` and `apart` (which takes two GPUs); by default all. With `sweep`
 * among them other bucket sizes are tried too, and no results are written.
 */
import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { LinkKind } from '../src/engines/engine-client.ts';
import { describe } from '../src/errors.ts';
import { Cluster, type UpdateOptions } from '../src/index.ts';
import { ThreadPool } from '../src/native-bridge/memory.ts';
import { probeNccl } from '../src/native-bridge/nccl-collective.ts';
import { probeCuda } from '../src/native-bridge/probe.ts';
import { chromeTrace, drawTimeline, overlap } from '../src/observe/timeline.ts';
import type { CollectiveKind } from '../src/processes/communicators.ts';
import { originalWorker } from '../test/python/engine-worker.ts';
import { PythonEngine, startClusterOnOneGpu } from '../test/python/python-engine.ts';
import { LayerFiles, smallLayer, usualLayer } from './gpu/checkpoint.ts';
import { gpuEnvironment } from './gpu/environment.ts';
import { LinkLimit } from './gpu/link-limit.ts';
import { type MeasuredUpdate, measureUpdate, type Subject } from './gpu/measured-update.ts';
import { median } from './median.ts';
import { type Figure, writeReport } from './report.ts';

const mebibyte = 2 ** 20;
/** 42 layers are 16.2 GB, the first 23 of them 8.9 GB. Fewer for a try on a small machine. */
const layers = Number(process.env.WEIGHTCAST_BENCH_LAYERS ?? 42);
const sharedLayers = Math.ceil((layers * 23) / 42);
/** 16 MiB. */
const smallLayers = 13;
const rounds = 21;
const fixedRounds = 40;
const sweepBuckets = [32, 64, 256];

const words = process.argv.slice(2);
const sweeps = words.includes('sweep');
const parts = words.filter((word) => word !== 'sweep');
const wanted = (...some: string[]) => parts.length === 0 || some.some((part) => parts.includes(part));

const ends: (() => unknown)[] = [];
const scope = { after: (end: () => unknown) => void ends.push(end) };
const figures: Figure[] = [];
const notes: string[] = [];
const gpus = probeCuda().devices;
const place = (index: number) => ({
  uuid: gpus[index]!.uuid,
  device: process.env.WEIGHTCAST_BENCH_DEVICE ?? `cuda:${index}`,
});

function add(
  name: string,
  value: number,
  unit: string,
  bound: Pick<Figure, 'atLeast' | 'atMost'> = {},
): void {
  figures.push({ name, value, unit, ...bound });
  console.log(`${name.padEnd(80)} ${value.toFixed(3).padStart(10)} ${unit}`);
}

async function startEngine(
  link: LinkKind,
  original: string | null = null,
  places = [place(0)],
): Promise<PythonEngine> {
  const engine = await PythonEngine.start(scope, { link, places, original });
  engine.quiet = true;
  return engine;
}

/** With a cluster that ends with the call. */
async function withCluster(
  starting: Promise<Cluster>,
  engines: readonly PythonEngine[],
  use: (subject: Subject) => Promise<void>,
): Promise<void> {
  const cluster = await starting;
  try {
    await use({ cluster, engines });
  } finally {
    await cluster.stop();
  }
}

/** Ranks of clusters that `use` starts are joined in that way. */
async function joinedBy(kind: CollectiveKind, use: () => Promise<void>): Promise<void> {
  process.env.WEIGHTCAST_COLLECTIVE = kind;
  try {
    await use();
  } finally {
    delete process.env.WEIGHTCAST_COLLECTIVE;
  }
}

async function repeat(
  subject: Subject,
  name: string,
  settings: UpdateOptions,
  link: LinkLimit | null,
  times: number,
): Promise<MeasuredUpdate[]> {
  const updates: MeasuredUpdate[] = [];
  // The first one makes the plan, opens the communicator and has the workers allocate their parameters.
  for (let round = 0; round < 2; round += 1) await subject.cluster.update(name, settings);
  for (let round = 0; round < times; round += 1) {
    updates.push(await measureUpdate(subject, name, settings, link));
  }
  return updates;
}

const medianOf = (updates: readonly MeasuredUpdate[], pick: (update: MeasuredUpdate) => number) =>
  median(updates.map(pick));

/** Against the limit of the link, or of all links together. */
function addAgainstLimit(
  name: string,
  updates: readonly MeasuredUpdate[],
  bound: Pick<Figure, 'atLeast'>,
): void {
  const [{ report }] = updates as [MeasuredUpdate];
  const rate = ({ report: { bytes, streamSeconds } }: MeasuredUpdate) => bytes / streamSeconds;
  add(`${name}: pinned H2D`, medianOf(updates, ({ limit }) => limit) / 1e9, 'GB/s');
  add(`${name}: streaming`, medianOf(updates, rate) / 1e9, 'GB/s');
  add(
    `${name}: streaming / pinned H2D`,
    medianOf(updates, (one) => rate(one) / one.limit),
    '',
    bound,
  );
  const whole = (one: MeasuredUpdate) => one.report.bytes / (one.total / 1_000) / one.limit;
  add(`${name}: whole update / pinned H2D`, medianOf(updates, whole), '');
  const slots = report.slots * report.slotBytes;
  add(`${name}: slots together`, slots / mebibyte, 'MiB', { atMost: 1024 });
  add(`${name}: buckets`, report.buckets, '');
  addPhases(name, updates);
}

function addPhases(name: string, updates: readonly MeasuredUpdate[]): void {
  const phases = ['healthy', 'opened', 'begun', 'streamed', 'finished', 'total', 'reload', 'load'] as const;
  const told = {
    healthy: 'until the engine is known to be healthy',
    opened: 'then until it is asked to update',
    begun: 'then until the first upload',
    streamed: 'first upload to last answer',
    finished: 'then until the update is over',
    total: 'all',
    reload: 'one bucket, from asking the worker to its answer',
    load: 'of which its model loads',
  };
  for (const phase of phases)
    add(
      `${name}: ${told[phase]}`,
      medianOf(updates, (one) => one[phase]),
      'ms',
    );
}

function keepTimeline(name: string, updates: readonly MeasuredUpdate[]): void {
  const { timelines } = updates.at(-1)!.report;
  const trace = new URL(`results/gpu-${name}.trace.json`, import.meta.url);
  writeFileSync(trace, `${JSON.stringify(chromeTrace(timelines))}\n`);
  const picture = drawTimeline(timelines, 100);
  const shared = (overlap(timelines) * 100).toFixed(0);
  notes.push(`The last update of "${name}"; ${shared} % of the time two stages or more were at work:`);
  notes.push(`\`\`\`\n${picture}\n\`\`\``);
  console.log(picture);
}

async function measureAlone(
  engine: PythonEngine,
  link: LinkKind,
  large: LayerFiles,
  small: LayerFiles,
  limit: LinkLimit | null,
) {
  await withCluster(startClusterOnOneGpu([engine], link), [engine], async (subject) => {
    const { cluster } = subject;
    await cluster.register('large', large.paths);
    await cluster.register('small', small.paths);
    const name = link === 'weightcast' ? 'our worker' : "the original's worker";
    const part = link === 'weightcast' ? 'one' : 'original';
    if (limit !== null && wanted(part)) {
      const plain = await repeat(subject, 'large', { verify: false }, limit, rounds);
      addAgainstLimit(`1 rank, ${name}`, plain, { atLeast: 0.95 });
      keepTimeline(link === 'weightcast' ? 'one-rank' : 'one-rank-original', plain);
      if (link === 'weightcast') {
        const verified = await repeat(subject, 'large', { verify: true }, limit, rounds);
        addAgainstLimit(`1 rank, ${name}, verified`, verified, {});
      }
    }
    if (wanted('fixed')) {
      for (const verify of link === 'weightcast' ? [false, true] : [false]) {
        const title = `16 MiB, ${name}${verify ? ', verified' : ''}`;
        const updates = await repeat(subject, 'small', { verify }, null, fixedRounds);
        const bound = link === 'weightcast' ? { atMost: 20 } : {};
        add(
          `${title}: update`,
          medianOf(updates, ({ report }) => report.seconds * 1_000),
          'ms',
          bound,
        );
        addPhases(title, updates);
      }
    }
    if (sweeps && wanted(part)) {
      for (const verify of link === 'weightcast' ? [false, true] : [false]) {
        for (const size of sweepBuckets) {
          const updates = await repeat(subject, 'large', { verify, bucketBytes: size * mebibyte }, limit, 3);
          addAgainstLimit(`sweep ${size} MiB, ${name}${verify ? ', verified' : ''}`, updates, {});
        }
      }
    }
  });
}

async function measureShared(
  engines: readonly PythonEngine[],
  kind: CollectiveKind,
  files: readonly string[],
) {
  const name = `${engines.length} ranks on the GPU, ${kind}`;
  await withCluster(startClusterOnOneGpu(engines, 'weightcast'), engines, async (subject) => {
    await subject.cluster.register('shared', files);
    const sizes = [null, ...(sweeps ? sweepBuckets : [])];
    for (const size of sizes) {
      const title = size === null ? name : `sweep ${size} MiB, ${name}`;
      const settings = { verify: false, ...(size !== null && { bucketBytes: size * mebibyte }) };
      const updates = await repeat(subject, 'shared', settings, null, size === null ? rounds : 3);
      const seconds = medianOf(updates, ({ report }) => report.seconds);
      add(`${title}: update of ${(updates[0]!.report.bytes / 1e9).toFixed(1)} GB`, seconds, 's', {
        atMost: 0.4,
      });
      addPhases(title, updates);
      if (size === null) keepTimeline(`${engines.length}-ranks-${kind}`, updates);
    }
  });
}

/** One engine of two workers, each with its rank on a GPU of their own, against the links of both at once. */
async function measureApart(kind: CollectiveKind, large: LayerFiles, limit: LinkLimit) {
  const engine = await startEngine('weightcast', null, [place(0), place(1)]);
  const instances = [{ name: 'engine', endpoint: engine.endpoint, ranks: [0, 1] }];
  const starting = Cluster.start({ ranks: 2, instances, devices: { kind: 'cuda', indices: [0, 1] } });
  await withCluster(starting, [engine], async (subject) => {
    await subject.cluster.register('large', large.paths);
    const updates = await repeat(subject, 'large', { verify: false }, limit, rounds);
    addAgainstLimit(`2 ranks on 2 GPUs, ${kind}`, updates, {});
    keepTimeline(`2-gpus-${kind}`, updates);
  });
  await Promise.all(engine.workers.map((worker) => worker.kill()));
}

/** Says why NCCL is not among them. */
function usableKinds(): readonly CollectiveKind[] {
  try {
    const { version, allowsSharedDevices } = probeNccl();
    if (allowsSharedDevices) return ['nccl', 'copies'];
    console.log(`without NCCL: NCCL ${version} refuses several ranks on one GPU`);
  } catch (error) {
    console.log(`without NCCL: ${describe(error)}`);
  }
  return ['copies'];
}

async function main(): Promise<void> {
  const original = originalWorker();
  const starting = [startEngine('weightcast'), startEngine('weightcast')];
  const pool = new ThreadPool(Math.max(1, Math.floor(availableParallelism() / 2)));
  const directory = `/dev/shm/bench-weightcast-${process.pid}`;
  const large = await LayerFiles.write(
    directory,
    wanted('one', 'original', 'apart') ? layers : sharedLayers,
    usualLayer,
    pool,
  );
  scope.after(() => large.remove());
  const small = await LayerFiles.write(`${directory}-small`, smallLayers, smallLayer, pool);
  scope.after(() => small.remove());
  pool.close();
  const limit = wanted('one', 'original') ? await LinkLimit.prepare([0], large.mappings) : null;
  const engines = await Promise.all(starting);

  if (wanted('one', 'fixed')) await measureAlone(engines[0]!, 'weightcast', large, small, limit);
  if (original === null) {
    console.log("without the original's worker: WEIGHTCAST_CHECKPOINT_ENGINE does not name it");
  } else if (wanted('original', 'fixed')) {
    const engine = await startEngine('checkpoint-engine', original);
    await measureAlone(engine, 'checkpoint-engine', large, small, limit);
    await Promise.all(engine.workers.map((worker) => worker.kill()));
  }
  if (wanted('shared')) {
    const kinds = usableKinds();
    const files = large.paths.slice(0, sharedLayers);
    for (const kind of kinds) await joinedBy(kind, () => measureShared(engines, kind, files));
    engines.push(...(await Promise.all([0, 1].map(() => startEngine('weightcast')))));
    for (const kind of kinds) await joinedBy(kind, () => measureShared(engines, kind, files));
  }
  limit?.close();
  if (wanted('apart') && gpus.length < 2) console.log('without two GPUs: there is one in this machine');
  else if (wanted('apart')) {
    const both = await LinkLimit.prepare([0, 1], large.mappings);
    for (const kind of usableKinds()) await joinedBy(kind, () => measureApart(kind, large, both));
    both.close();
  }
}

async function end(): Promise<void> {
  for (const one of ends.reverse()) await one();
}

process.once('SIGTERM', () => end().finally(() => process.exit(143)));
try {
  await main();
} finally {
  await end();
}
if (!sweeps) {
  writeReport({
    name: 'gpu',
    title: 'Updates on a GPU',
    command: ['npm run bench:gpu', ...(parts.length > 0 ? ['--', ...parts] : [])].join(' '),
    method:
      `Whole updates through a cluster into engine workers in Python with torch, on one GPU but for the rows that name two. The checkpoint: ` +
      `${layers} decoder layers of Qwen3-8B's sizes in BF16, nine tensors each, as safetensors files in /dev/shm; ` +
      `${sharedLayers} of the layers where ranks share the GPU; ${smallLayers} small layers for the fixed cost. Workers copy every ` +
      `tensor into the parameter of its name. Streaming reaches from the first upload to the last answer of a worker. ` +
      `Pinned H2D: the same bytes from the same files in copies of 386 MB without a pause, measured before and after ` +
      `every update, of two GPUs both at once. Medians of ${rounds} updates, ${fixedRounds} for the fixed cost; the first two are not counted.`,
    figures,
    environment: gpuEnvironment(true),
    appendix: notes.join('\n\n'),
  });
}
process.exit();
