/**
 * `npm run bench:gpu [-- PART...]`: whole updates of engine workers in Python with torch, on one GPU. WEIGHTCAST_PYTHON
 * names an interpreter with torch, pyzmq and msgpack. WEIGHTCAST_CHECKPOINT_ENGINE names checkpoint-engine's worker.py;
 * without it the rows of the original are omitted. WEIGHTCAST_NCCL names an NCCL; ranks share a GPU through 2.30.7 or
 * newer. Parts: `one`, `original`, `fixed`, `shared` and `apart` (needs two GPUs); default: all. Results of
 * parts are files of their own. `sweep` also measures other bucket sizes, and writes no results.
 */
import { availableParallelism } from 'node:os';
import type { LinkKind } from '../src/engines/engine-client.ts';
import { describe } from '../src/errors.ts';
import { Cluster, type UpdateOptions } from '../src/index.ts';
import { ThreadPool } from '../src/native-bridge/memory.ts';
import { probeNccl } from '../src/native-bridge/nccl-collective.ts';
import { probeCuda } from '../src/native-bridge/probe.ts';
import type { CollectiveKind } from '../src/processes/communicators.ts';
import { originalWorker } from '../test/python/engine-worker.ts';
import { PythonEngine, startClusterOnOneGpu } from '../test/python/python-engine.ts';
import { LayerFiles, smallLayer, usualLayer } from './gpu/checkpoint.ts';
import { gpuEnvironment } from './gpu/environment.ts';
import { GpuFigures, medianOf } from './gpu/figures.ts';
import { LinkLimit } from './gpu/link-limit.ts';
import { type MeasuredUpdate, measureUpdate, type Subject } from './gpu/measured-update.ts';
import { needPython } from './needed-python.ts';
import { writeReport } from './report.ts';

const mebibyte = 2 ** 20;
/** 42 layers are 16.2 GB, and their first 23 are 8.9 GB. Fewer layers allow a trial on a small machine. */
const layers = Number(process.env.WEIGHTCAST_BENCH_LAYERS ?? 42);
const sharedLayers = Math.ceil((layers * 23) / 42);
/** 16 MiB. */
const smallLayers = 13;
const rounds = 21;
const fixedRounds = 40;
const sweepBuckets = [32, 64, 256];

needPython('bench:gpu', 'torch', 'zmq', 'msgpack');
const args = process.argv.slice(2);
const sweeps = args.includes('sweep');
const parts = args.filter((arg) => arg !== 'sweep');
const wanted = (...some: string[]) => parts.length === 0 || some.some((part) => parts.includes(part));

const ends: (() => unknown)[] = [];
const scope = { after: (end: () => unknown) => void ends.push(end) };
const figures = new GpuFigures();
const gpus = probeCuda().devices;
const place = (index: number) => ({
  uuid: gpus[index]!.uuid,
  device: process.env.WEIGHTCAST_BENCH_DEVICE ?? `cuda:${index}`,
});

async function startEngine(
  link: LinkKind,
  original: string | null = null,
  places = [place(0)],
  keepsShares = false,
): Promise<PythonEngine> {
  const engine = await PythonEngine.start(scope, { link, places, original, keepsShares });
  engine.quiet = true;
  return engine;
}

/** Runs `use` with the cluster, and stops the cluster afterwards. */
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

/** Makes clusters that `use` starts broadcast in this way. */
async function withCollective(kind: CollectiveKind, use: () => Promise<void>): Promise<void> {
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
  // The first update computes the plan, opens the communicator and makes workers allocate their parameters.
  for (let round = 0; round < 2; round += 1) await subject.cluster.update(name, settings);
  for (let round = 0; round < times; round += 1) {
    updates.push(await measureUpdate(subject, name, settings, link));
  }
  return updates;
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
      const bounds = link === 'weightcast' ? { streaming: 0.99, whole: 0.945 } : { streaming: 0.95 };
      figures.addAgainstLimit(`1 rank, ${name}`, plain, bounds);
      figures.keepTimeline(link === 'weightcast' ? 'one-rank' : 'one-rank-original', plain.at(-1)!.report);
      if (link === 'weightcast') {
        const verified = await repeat(subject, 'large', { verify: true }, limit, rounds);
        figures.addAgainstLimit(`1 rank, ${name}, verified`, verified, {});
      }
    }
    if (wanted('fixed')) {
      for (const verify of link === 'weightcast' ? [false, true] : [false]) {
        const title = `16 MiB, ${name}${verify ? ', verified' : ''}`;
        const updates = await repeat(subject, 'small', { verify }, null, fixedRounds);
        const bound = link === 'weightcast' ? { atMost: 20 } : {};
        figures.add(
          `${title}: update`,
          medianOf(updates, ({ report }) => report.seconds * 1_000),
          'ms',
          bound,
        );
        figures.addPhases(title, updates);
      }
    }
    if (sweeps && wanted(part)) {
      for (const verify of link === 'weightcast' ? [false, true] : [false]) {
        for (const size of sweepBuckets) {
          const updates = await repeat(subject, 'large', { verify, bucketBytes: size * mebibyte }, limit, 3);
          figures.addAgainstLimit(`sweep ${size} MiB, ${name}${verify ? ', verified' : ''}`, updates, {});
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
      figures.add(`${title}: update of ${(updates[0]!.report.bytes / 1e9).toFixed(1)} GB`, seconds, 's', {
        atMost: 0.4,
      });
      figures.addPhases(title, updates);
      if (size === null) figures.keepTimeline(`${engines.length}-ranks-${kind}`, updates.at(-1)!.report);
    }
  });
}

/**
 * One engine of two workers on two GPUs, compared with the links of both GPUs at once. By parts, each worker keeps a half of each
 * tensor, and gets no more: the links have as much to do as when they share out whole tensors.
 */
async function measureApart(kind: CollectiveKind | 'parts', large: LayerFiles, limit: LinkLimit) {
  const isByParts = kind === 'parts';
  const engine = await startEngine('weightcast', null, [place(0), place(1)], isByParts);
  const instances = [{ name: 'engine', endpoint: engine.endpoint, ranks: [0, 1] }];
  const starting = Cluster.start({ ranks: 2, instances, devices: { kind: 'cuda', indices: [0, 1] } });
  await withCluster(starting, [engine], async (subject) => {
    await subject.cluster.register('large', large.paths);
    const updates = await repeat(subject, 'large', { verify: false }, limit, rounds);
    const [{ report }] = updates as [MeasuredUpdate];
    const [{ fed, whyWhole }] = report.instances as [(typeof report.instances)[0]];
    if ((fed === 'parts') !== isByParts) throw new Error(`${kind}: the workers were fed ${fed}: ${whyWhole}`);
    figures.addAgainstLimit(`2 ranks on 2 GPUs, ${kind}`, updates, isByParts ? { whole: 0.9 } : {});
    for (const { rank, uploadedBytes } of report.links) {
      const percent = (100 * uploadedBytes) / report.bytes;
      figures.add(`2 ranks on 2 GPUs, ${kind}: uploaded by rank ${rank}`, percent, '% of the bytes');
    }
    figures.keepTimeline(`2-gpus-${kind}`, updates.at(-1)!.report);
  });
  await Promise.all(engine.workers.map((worker) => worker.kill()));
}

/** The kinds of broadcast that work here, of ranks that share a GPU or not; prints why NCCL is not among them. */
function usableKinds(ranks: 'share' | 'apart'): readonly CollectiveKind[] {
  try {
    const { version, allowsSharedDevices } = probeNccl();
    if (allowsSharedDevices || ranks === 'apart') return ['nccl', 'copies'];
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
    const kinds = usableKinds('share');
    const files = large.paths.slice(0, sharedLayers);
    for (const kind of kinds) await withCollective(kind, () => measureShared(engines, kind, files));
    engines.push(...(await Promise.all([0, 1].map(() => startEngine('weightcast')))));
    for (const kind of kinds) await withCollective(kind, () => measureShared(engines, kind, files));
  }
  limit?.close();
  if (wanted('apart') && gpus.length < 2) console.log('without two GPUs: there is one in this machine');
  else if (wanted('apart')) {
    const both = await LinkLimit.prepare([0, 1], large.mappings);
    for (const kind of usableKinds('apart'))
      await withCollective(kind, () => measureApart(kind, large, both));
    await measureApart('parts', large, both);
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
    name: ['gpu', ...parts].join('-'),
    title: 'Updates on a GPU',
    command: ['npm run bench:gpu', ...(parts.length > 0 ? ['--', ...parts] : [])].join(' '),
    method:
      `Whole updates through a cluster into engine workers in Python with torch, on one GPU but for the rows that name two. The checkpoint: ` +
      `${layers} decoder layers of Qwen3-8B's sizes in BF16, nine tensors each, as safetensors files in /dev/shm; ` +
      `${sharedLayers} of the layers where ranks share the GPU; ${smallLayers} small layers for the fixed cost. Workers copy every ` +
      `tensor into the parameter of its name. Streaming reaches from the first upload to the last answer of a worker. ` +
      `Pinned H2D: the same bytes from the same files in copies of 386 MB without a pause, measured before and after ` +
      `every update, of two GPUs both at once. Medians of ${rounds} updates, ${fixedRounds} for the fixed cost; the first two are not counted.`,
    figures: figures.figures,
    environment: gpuEnvironment(true),
    appendix: figures.notes.join('\n\n'),
  });
}
process.exit();
