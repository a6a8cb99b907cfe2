/**
 * `npm run bench:pause`: what an update adds to the pause of a real vLLM beyond its bytes over the link and vLLM's own
 * loading, and what the proof of what it holds costs; all in one run. WEIGHTCAST_PYTHON names a Python with vLLM 0.17 or
 * newer, msgpack and pyzmq. Without a GPU vLLM runs on the CPU. `--model A B`: models to go to and fro between, by default
 * two with random weights, on a GPU of 16.2 GB each in /dev/shm, on the CPU small ones. `--split`: vLLM runs on two GPUs, and
 * what is compared are parts and whole tensors.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Cluster, type UpdateOptions } from '../src/index.ts';
import { Mapping } from '../src/native-bridge/memory.ts';
import { probeCuda } from '../src/native-bridge/probe.ts';
import { packageRoot } from '../src/package-root.ts';
import { VllmServer } from '../test/engines-real/vllm-server.ts';
import { attentionOptions, plainKernels } from './engines/kernels.ts';
import { added, addedByPhase, type MeasuredPause, type WorkerSpans } from './engines/measured-pause.ts';
import { spansIn, union } from './engines/spans.ts';
import { WatchedEndpoint } from './engines/watched-endpoint.ts';
import { gpuEnvironment } from './gpu/environment.ts';
import { LinkLimit } from './gpu/link-limit.ts';
import { median } from './median.ts';
import { type Figure, writeReport } from './report.ts';

/** In both ways, in turns; those before are not counted. */
const rounds = 10;
const warmUp = 2;

const { values, positionals } = parseArgs({
  options: { model: { type: 'boolean', default: false }, split: { type: 'boolean', default: false } },
  allowPositionals: true,
});
const python = process.env.WEIGHTCAST_PYTHON ?? 'python3';
const isOnGpu = hasGpu();
const family = isOnGpu ? 'large' : 'dense';
const scratch = mkdtempSync(`${isOnGpu ? '/dev/shm' : tmpdir()}/weightcast-pause-`);
const ends: (() => unknown)[] = [() => rmSync(scratch, { recursive: true, force: true })];

const ranks = values.split ? [0, 1] : [0];
/** What is compared, and how often the second way is gone before the first is: a worker has to say which parts it keeps. */
const ways: readonly [string, UpdateOptions][] = values.split
  ? [
      ['by parts', { parts: true }],
      ['by whole tensors', { parts: false }],
    ]
  : [
      ['with both proofs', { verify: { installed: true } }],
      ['without proof 2', { verify: { installed: false } }],
    ];

function hasGpu(): boolean {
  try {
    return probeCuda().devices.length > 0;
  } catch {
    // No driver.
    return false;
  }
}

function models(): readonly string[] {
  if (values.model && positionals.length === 2) return positionals;
  const script = fileURLToPath(new URL('bench/engines/models.py', packageRoot));
  execFileSync(python, [script, scratch, family], { stdio: ['ignore', 'inherit', 'ignore'] });
  return [`${scratch}/${family}-A`, `${scratch}/${family}-B`];
}

function startEngine(model: string): Promise<VllmServer> {
  const packages = ['python', 'bench/engines'].map((path) => fileURLToPath(new URL(path, packageRoot)));
  const { PYTHONPATH: given } = process.env;
  const onCpu = { VLLM_CPU_KVCACHE_SPACE: '1', VLLM_CPU_OMP_THREADS_BIND: 'nobind' };
  return VllmServer.start(
    { after: (end) => ends.push(end) },
    {
      python,
      model,
      options: [
        '--enforce-eager',
        '--worker-extension-cls',
        'timed.TimedExtension',
        ...(isOnGpu ? attentionOptions(family) : []),
        ...(values.split ? ['--tensor-parallel-size', '2', '--disable-custom-all-reduce'] : []),
      ],
      environment: {
        PYTHONPATH: [...packages, ...(given === undefined ? [] : [given])].join(':'),
        ...(isOnGpu ? plainKernels : onCpu),
      },
    },
  );
}

async function measure(files: readonly string[]): Promise<MeasuredPause[][]> {
  const server = await startEngine(files[0]!);
  const watched = await WatchedEndpoint.before(server.endpoint);
  ends.push(() => watched.close());
  const takeSpans = async (): Promise<WorkerSpans> => {
    const { results } = (await server.post('/collective_rpc', { method: 'take_spans' })) as {
      results: WorkerSpans[];
    };
    const all = (what: keyof WorkerSpans) => results.flatMap((worker) => worker[what]);
    return { update: all('update'), load: all('load'), proof: all('proof') };
  };
  const cluster = await Cluster.start({
    ranks: ranks.length,
    instances: [{ name: 'vllm', endpoint: watched.endpoint, ranks, pause: 'wait', resetCache: true }],
    devices: isOnGpu
      ? { kind: 'cuda', indices: ranks }
      : { kind: 'host', namespace: `bench-${randomBytes(6).toString('hex')}` },
  });
  ends.push(() => cluster.stop());
  for (const [index, path] of files.entries()) await cluster.register(`${index}`, path);
  await takeSpans();
  const measured: MeasuredPause[][] = ways.map(() => []);
  for (let round = 0; round < warmUp + rounds; round += 1) {
    const way = round % ways.length;
    const [name, options] = ways[way]!;
    const report = await cluster.update(`${(round + (round >> 1) + 1) % 2}`, options);
    const spans = await takeSpans();
    if (round < warmUp) continue;
    const [{ fed, whyWhole }] = report.instances as [(typeof report.instances)[0]];
    if (values.split && (fed === 'parts') !== (options.parts === true))
      throw new Error(`${name}: it was fed ${fed}: ${whyWhole}`);
    const link = report.timelines.flatMap(({ h2d }) => spansIn(h2d));
    measured[way]!.push({ report, pause: watched.pauses.at(-1)!, link, ...spans });
  }
  return measured;
}

/** Of both links at once, bytes per second, for as many bytes as one model has. */
async function linkLimit(files: readonly string[]): Promise<number> {
  const mappings = ranks.map((rank) => Mapping.open(`${files[rank]}/model.safetensors`, false));
  const limit = await LinkLimit.prepare(ranks, mappings);
  const rates: number[] = [];
  for (let round = 0; round < 5; round += 1) rates.push(await limit.measure());
  limit.close();
  for (const mapping of mappings) mapping.close();
  return median(rates);
}

const seconds = ({ report }: MeasuredPause) => 1e3 * report.seconds;

function figuresOf(way: string, all: readonly MeasuredPause[]): Figure[] {
  const of = (value: (one: MeasuredPause) => number) => median(all.map(value));
  const ms = (name: string, value: (one: MeasuredPause) => number, bound: Pick<Figure, 'atMost'> = {}) => ({
    name: `${way}: ${name}`,
    value: of(value),
    unit: 'ms',
    ...bound,
  });
  const isBound = way === ways[0]![0];
  return [
    ms('update', seconds),
    ms('pause', ({ pause: { span } }) => span[1] - span[0]),
    ms('bytes over the link', ({ link, pause }) => union(link, pause.span)),
    ms('vLLM’s own loading', ({ load, pause }) => union(load, pause.span)),
    ms('added to the pause', added, isBound ? { atMost: 50 } : {}),
    ...Object.keys(addedByPhase(all[0]!)).map((phase) =>
      ms(`of it ${phase}`, (one) => addedByPhase(one)[phase]!),
    ),
    ...(all[0]!.proof.length === 0
      ? []
      : [
          ms('proof 2', ({ proof, pause }) => union(proof, pause.span)),
          {
            name: `${way}: proof 2, of the update`,
            value: of((one) => (100 * union(one.proof, one.pause.span)) / seconds(one)),
            unit: '%',
            ...(isBound ? { atMost: 5 } : {}),
          },
        ]),
  ];
}

/** What goes over each link, and how close updates come to the time that the links need for it. */
function figuresOfLinks(all: readonly (readonly MeasuredPause[])[], limit: number): Figure[] {
  return ways.flatMap(([way], at) => {
    const [{ report }] = all[at] as [MeasuredPause];
    const most = (pick: (link: (typeof report.links)[0]) => number) =>
      (100 * Math.max(...report.links.map(pick))) / report.bytes;
    const floor = (one: MeasuredPause) => one.report.bytes / limit / one.report.seconds;
    return [
      { name: `${way}: of the bytes over a link`, value: most((link) => link.uploadedBytes), unit: '%' },
      { name: `${way}: and from the other GPU`, value: most((link) => link.broadcastBytes), unit: '%' },
      { name: `${way}: links alone / update`, value: median(all[at]!.map(floor)), unit: '' },
    ];
  });
}

function write(all: readonly MeasuredPause[][], limit: number | null): void {
  const [{ report }] = all[0] as [MeasuredPause];
  const version = execFileSync(python, ['-c', 'import importlib.metadata as m; print(m.version("vllm"))']);
  const where = values.split ? 'on two GPUs' : isOnGpu ? 'on a GPU' : 'on the CPU';
  const onCpu =
    ' On a CPU the engine, the ranks and this program share the cores, an upload is a copy in memory, and digests are taken by torch: neither bound says anything of a GPU.';
  const onTwo =
    ' Parts are those that its two workers have said that they keep: each rank uploads its own, and nothing goes from GPU to GPU. Links alone: as many bytes at the rate of pinned copies over both links at once.';
  writeReport({
    name: values.split ? 'pause-2-gpus' : isOnGpu ? 'pause-gpu' : 'pause',
    title: 'The pause of a real vLLM',
    command: `npm run bench:pause${values.split ? ' -- --split' : ''}`,
    method: `A vLLM ${where}, eager, by the worker extension, goes to and fro between two models of ${(report.bytes / 1e6).toFixed(0)} MB, ${rounds / 2} times ${ways[0]![0]} (in ${report.buckets} buckets) and ${rounds / 2} times ${ways[1]![0]}, in turns, after ${warmUp} updates that are not counted; medians. The pause reaches from the engine's answer to /pause to its answer to /resume. What is added to it is the time in which neither a rank uploaded nor vLLM worked in its load_weights or its layerwise reload, by spans on one clock.${isOnGpu ? '' : onCpu}${values.split ? onTwo : ''}`,
    environment: [
      `load of the machine in the last minute: ${loadavg()[0]!.toFixed(1)}`,
      `vLLM: ${version.toString().trim()}`,
      ...(isOnGpu ? gpuEnvironment(true) : []),
    ],
    figures: [
      ...ways.flatMap(([way], at) => figuresOf(way, all[at]!)),
      ...(limit === null ? [] : figuresOfLinks(all, limit)),
    ],
  });
}

try {
  const files = models();
  // Before vLLM takes the memory of the GPUs.
  const limit = values.split ? await linkLimit(files) : null;
  write(await measure(files), limit);
} finally {
  for (const end of ends.reverse()) await end();
}
