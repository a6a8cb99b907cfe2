import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { Command } from 'commander';
import { openCheckpoint } from '../src/checkpoint/source.ts';
import { interruptible, runCommand } from '../src/cli/interrupt.ts';
import { Reporter } from '../src/cli/reporter.ts';
import { summarize } from '../src/cli/summary.ts';
import { Cluster } from '../src/cluster/cluster.ts';
import { chromeTrace, drawTimeline } from '../src/observe/timeline.ts';
import { parseBytes, parseCount } from '../src/units.ts';
import { LoadGenerator, requestsText } from './load-generator.ts';
import { ampleMemory, makeModel } from './model.ts';
import { type RunningEngine, startReferenceEngine } from './reference-engine/index.ts';
import { collectiveRpc, verifyWeights } from './verify-weights.ts';

interface Options {
  readonly size: string;
  readonly checkpoint?: string;
  readonly ranks: string;
  readonly deviceMemory?: string;
  readonly bucket: string;
  readonly json?: string;
  readonly timeline?: string;
  readonly dump?: string;
}

const instance = 'engine-0';
/** Requests that are always under way while the demo runs. */
const clients = 4;
/** Columns of the picture; with its labels it fits a terminal of 100. */
const pictureWidth = 78;

const program = new Command('npm run demo --')
  .description(
    'Bring a checkpoint into a running engine on this machine, without a GPU, while it answers requests.',
  )
  .option('--size <bytes>', 'size of the model to make', '1GiB')
  .option('--checkpoint <path>', 'use this safetensors file or model directory instead of making one')
  .option('--ranks <n>', 'devices, each with an engine worker and a rank process', '4')
  .option(
    '--device-memory <bytes>',
    "size of each device; the engine's model and the update share it (default: ample)",
  )
  // Smaller than ranks take by themselves, so that the picture of a small model shows the stages overlap.
  .option('--bucket <bytes>', 'size of a bucket', '32MiB')
  .option('--json <file>', 'write the figures as JSON')
  .option('--timeline <file>', 'write a Chrome trace of the three stages, for Perfetto')
  .option('--dump <directory>', 'write the weights that the engine holds after the update, as safetensors')
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2))
  .action((options: Options) => runCommand((signal) => demo(options, signal)));

async function demo(options: Options, signal: AbortSignal): Promise<void> {
  const ranks = parseCount(options.ranks, '--ranks');
  const size = parseBytes(options.size, '--size');
  const bucketBytes = parseBytes(options.bucket, '--bucket');
  const scratch = mkdtempSync(join(tmpdir(), 'weightcast-demo-'));
  // Devices of its own: a demo must not meet another one on the same machine.
  const deviceNamespace = basename(scratch);
  const reporter = new Reporter();
  const stops: (() => Promise<unknown>)[] = [];
  try {
    const model =
      options.checkpoint ??
      (await makeModel({ directory: join(scratch, 'qwen3'), bytes: size, seed: 1 }, signal));
    const index = await openCheckpoint(model);
    const deviceCapacity =
      options.deviceMemory === undefined
        ? ampleMemory(index)
        : parseBytes(options.deviceMemory, '--device-memory');
    const engine = await startReferenceEngine({
      name: 'demo',
      model,
      ranks,
      deviceNamespace,
      deviceCapacity,
    });
    stops.push(() => engine.stop());
    const load = new LoadGenerator(engine.endpoint, 'demo', clients);
    stops.push(() => load.stop());
    const cluster = await Cluster.start({
      ranks,
      instances: [{ name: instance, endpoint: engine.endpoint, ranks: [...Array(ranks).keys()] }],
      devices: { kind: 'host', namespace: deviceNamespace },
      onProgress: (progress) => reporter.progress(progress),
    });
    stops.push(() => cluster.stop());

    const name = basename(resolve(model));
    await interruptible(cluster.register(name, model), signal);
    const report = await interruptible(cluster.update(name, { bucketBytes }), signal);
    reporter.end();
    await interruptible(verifyWeights(engine.endpoint, index), signal);
    await interruptible(dumpWeights(engine, options.dump), signal);
    const requests = await load.stop();

    const summary = {
      ...summarize(report),
      requestsServed: requests.served,
      requestsFailed: requests.failed,
    };
    reporter.table(summary);
    reporter.rows([['requests', requestsText(requests)]]);
    process.stdout.write(`\n${drawTimeline(report.timelines, pictureWidth)}\n`);
    if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(summary, null, 2)}\n`);
    if (options.timeline !== undefined)
      writeFileSync(options.timeline, JSON.stringify(chromeTrace(report.timelines)));
  } finally {
    reporter.end();
    for (const stop of stops.reverse()) await stop();
    rmSync(scratch, { recursive: true, force: true });
  }
}

async function dumpWeights(engine: RunningEngine, directory: string | undefined): Promise<void> {
  if (directory === undefined) return;
  mkdirSync(directory, { recursive: true });
  await collectiveRpc(engine.endpoint, 'dump_weights', [resolve(directory, `${instance}.safetensors`)]);
}

await program.parseAsync();
