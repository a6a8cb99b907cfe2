/**
 * `npm run bench:pause`: what an update adds to the pause of a real vLLM beyond its bytes over the link and vLLM's own
 * loading, and what the proof of what it holds costs; all in one run. WEIGHTCAST_PYTHON names a Python with vLLM 0.17 or
 * newer, msgpack and pyzmq. Without a GPU vLLM runs on the CPU. `--model A B`: models to go to and fro between, by default
 * two with random weights, on a GPU of 16.2 GB each in /dev/shm, on the CPU small ones.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Cluster } from '../src/index.ts';
import { probeCuda } from '../src/native-bridge/probe.ts';
import { packageRoot } from '../src/package-root.ts';
import { VllmServer } from '../test/engines-real/vllm-server.ts';
import { attentionOptions, plainKernels } from './engines/kernels.ts';
import { added, addedByPhase, type MeasuredPause, type WorkerSpans } from './engines/measured-pause.ts';
import { spansIn, union } from './engines/spans.ts';
import { WatchedEndpoint } from './engines/watched-endpoint.ts';
import { gpuEnvironment } from './gpu/environment.ts';
import { median } from './median.ts';
import { type Figure, writeReport } from './report.ts';

/** In both ways, in turns; those before are not counted. */
const rounds = 10;
const warmUp = 2;

const { values, positionals } = parseArgs({
  options: { model: { type: 'boolean', default: false } },
  allowPositionals: true,
});
const python = process.env.WEIGHTCAST_PYTHON ?? 'python3';
const isOnGpu = hasGpu();
const family = isOnGpu ? 'large' : 'dense';
const scratch = mkdtempSync(`${isOnGpu ? '/dev/shm' : tmpdir()}/weightcast-pause-`);
const ends: (() => unknown)[] = [() => rmSync(scratch, { recursive: true, force: true })];

const ways = { 'with both proofs': true, 'without proof 2': false } as const;
type Way = keyof typeof ways;
const wayNames = Object.keys(ways) as Way[];

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
      ],
      environment: {
        PYTHONPATH: [...packages, ...(given === undefined ? [] : [given])].join(':'),
        ...(isOnGpu ? plainKernels : onCpu),
      },
    },
  );
}

async function measure(files: readonly string[]): Promise<Record<Way, MeasuredPause[]>> {
  const server = await startEngine(files[0]!);
  const watched = await WatchedEndpoint.before(server.endpoint);
  ends.push(() => watched.close());
  const takeSpans = async (): Promise<WorkerSpans> => {
    const { results } = (await server.post('/collective_rpc', { method: 'take_spans' })) as {
      results: [WorkerSpans];
    };
    return results[0];
  };
  const cluster = await Cluster.start({
    ranks: 1,
    instances: [{ name: 'vllm', endpoint: watched.endpoint, ranks: [0], pause: 'wait', resetCache: true }],
    devices: isOnGpu
      ? { kind: 'cuda', indices: [0] }
      : { kind: 'host', namespace: `bench-${randomBytes(6).toString('hex')}` },
  });
  ends.push(() => cluster.stop());
  for (const [index, path] of files.entries()) await cluster.register(`${index}`, path);
  await takeSpans();
  const measured: Record<Way, MeasuredPause[]> = { 'with both proofs': [], 'without proof 2': [] };
  for (let round = 0; round < warmUp + rounds; round += 1) {
    const way = wayNames[round % 2]!;
    const report = await cluster.update(`${(round + (round >> 1) + 1) % 2}`, {
      verify: { installed: ways[way] },
    });
    const spans = await takeSpans();
    const link = spansIn(report.timelines[0]!.h2d);
    if (round >= warmUp) measured[way].push({ report, pause: watched.pauses.at(-1)!, link, ...spans });
  }
  return measured;
}

const seconds = ({ report }: MeasuredPause) => 1e3 * report.seconds;

function figuresOf(way: Way, all: readonly MeasuredPause[]): Figure[] {
  const of = (value: (one: MeasuredPause) => number) => median(all.map((one) => value(one)));
  const ms = (name: string, value: (one: MeasuredPause) => number, bound: Pick<Figure, 'atMost'> = {}) => ({
    name: `${way}: ${name}`,
    value: of(value),
    unit: 'ms',
    ...bound,
  });
  const isBound = ways[way];
  return [
    ms('update', seconds),
    ms('pause', ({ pause: { span } }) => span[1] - span[0]),
    ms('bytes over the link', ({ link, pause }) => union(link, pause.span)),
    ms('vLLM’s own loading', ({ load, pause }) => union(load, pause.span)),
    ms('added to the pause', added, isBound ? { atMost: 50 } : {}),
    ...Object.keys(addedByPhase(all[0]!)).map((phase) =>
      ms(`of it ${phase}`, (one) => addedByPhase(one)[phase]!),
    ),
    ...(isBound
      ? [
          ms('proof 2', ({ proof, pause }) => union(proof, pause.span)),
          {
            name: `${way}: proof 2, of the update`,
            value: of((one) => (100 * union(one.proof, one.pause.span)) / seconds(one)),
            unit: '%',
            atMost: 5,
          },
        ]
      : []),
  ];
}

function write(measured: Record<Way, MeasuredPause[]>): void {
  const [{ report }] = measured['with both proofs'] as [MeasuredPause];
  const version = execFileSync(python, ['-c', 'import importlib.metadata as m; print(m.version("vllm"))']);
  const onCpu =
    ' On a CPU the engine, the ranks and this program share the cores, an upload is a copy in memory, and digests are taken by torch: neither bound says anything of a GPU.';
  writeReport({
    name: isOnGpu ? 'pause-gpu' : 'pause',
    title: 'The pause of a real vLLM',
    command: 'npm run bench:pause',
    method: `A vLLM ${isOnGpu ? 'on a GPU' : 'on the CPU'}, eager, by the worker extension, goes to and fro between two models of ${(report.bytes / 1e6).toFixed(0)} MB in ${report.buckets} buckets, ${rounds / 2} times with both proofs and ${rounds / 2} times without the second one, in turns, after ${warmUp} updates that are not counted; medians. The pause reaches from the engine's answer to /pause to its answer to /resume. What is added to it is the time in which neither the rank uploaded nor vLLM worked in its load_weights or its layerwise reload, by spans on one clock.${isOnGpu ? '' : onCpu}`,
    environment: [
      `load of the machine in the last minute: ${loadavg()[0]!.toFixed(1)}`,
      `vLLM: ${version.toString().trim()}`,
      ...(isOnGpu ? gpuEnvironment(true) : []),
    ],
    figures: wayNames.flatMap((way) => figuresOf(way, measured[way])),
  });
}

try {
  write(await measure(models()));
} finally {
  for (const end of ends.reverse()) await end();
}
