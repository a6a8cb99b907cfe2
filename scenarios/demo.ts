import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { Command } from 'commander';
import { type CheckpointIndex, openCheckpoint } from '../src/checkpoint/source.ts';
import { interruptible, runCommand } from '../src/cli/interrupt.ts';
import { checkOutputFile } from '../src/cli/output-file.ts';
import { Reporter } from '../src/cli/reporter.ts';
import { Cluster, type UpdateReport } from '../src/index.ts';
import { summarize } from '../src/observe/summary.ts';
import { chromeTrace, drawTimeline } from '../src/observe/timeline.ts';
import { parseBytes, parseCount } from '../src/units.ts';
import { LoadGenerator, type LoadReport, requestsText } from './load-generator.ts';
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
/** Concurrent clients of the engine while the demo runs. */
const clients = 4;
/** Columns of the text timeline, which fits a terminal of 100 with its labels. */
const timelineWidth = 78;

const program = new Command('npm run demo --')
  .description(
    'Update a running engine to another checkpoint while it answers requests, on this machine and without a GPU.',
  )
  .option('--size <bytes>', 'size of the generated model', '1GiB')
  .option('--checkpoint <path>', 'use this safetensors file or model directory instead of a generated model')
  .option('--ranks <n>', 'number of devices, each with an engine worker and a rank process', '4')
  .option(
    '--device-memory <bytes>',
    "size of each device; the engine's model and the update share it (default: ample)",
  )
  // Smaller than the default of ranks, so that the timeline of a small model shows overlapping stages.
  .option('--bucket <bytes>', 'bucket size', '32MiB')
  .option('--json <file>', 'write the result as JSON')
  .option('--timeline <file>', 'write a Chrome trace of the three stages, for Perfetto')
  .option('--dump <directory>', 'write the weights that the engine holds after the update, as safetensors')
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2))
  .action((options: Options) => runCommand((signal) => demo(options, signal)));

async function demo(options: Options, signal: AbortSignal): Promise<void> {
  const ranks = parseCount(options.ranks, '--ranks');
  const bytes = parseBytes(options.size, '--size');
  const bucketBytes = parseBytes(options.bucket, '--bucket');
  checkOutputFile('--json', options.json);
  checkOutputFile('--timeline', options.timeline);
  const scratch = mkdtempSync(join(tmpdir(), 'weightcast-demo-'));
  const reporter = new Reporter(ranks);
  const stops: (() => Promise<unknown>)[] = [];
  try {
    const model =
      options.checkpoint ?? (await makeModel({ directory: join(scratch, 'qwen3'), bytes, seed: 1 }, signal));
    const index = await openCheckpoint(model);
    // A namespace per run, so that concurrent demos do not share devices.
    const deviceNamespace = basename(scratch);
    const deviceCapacity = deviceCapacityOf(options, index);
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
    writeResults(options, reporter, report, await load.stop());
  } finally {
    reporter.end();
    for (const stop of stops.reverse()) await stop();
    rmSync(scratch, { recursive: true, force: true });
  }
}

function deviceCapacityOf({ deviceMemory }: Options, index: CheckpointIndex): number {
  return deviceMemory === undefined ? ampleMemory(index) : parseBytes(deviceMemory, '--device-memory');
}

/** Prints the result, and writes the files that the options name. */
function writeResults(
  options: Options,
  reporter: Reporter,
  report: UpdateReport,
  requests: LoadReport,
): void {
  const summary = {
    ...summarize(report),
    requestsServed: requests.served,
    requestsFailed: requests.failed,
  };
  reporter.table(summary);
  reporter.rows([['requests', requestsText(requests)]]);
  process.stdout.write(`\n${drawTimeline(report.timelines, timelineWidth)}\n`);
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(summary, null, 2)}\n`);
  if (options.timeline !== undefined)
    writeFileSync(options.timeline, JSON.stringify(chromeTrace(report.timelines)));
}

async function dumpWeights(engine: RunningEngine, directory: string | undefined): Promise<void> {
  if (directory === undefined) return;
  mkdirSync(directory, { recursive: true });
  await collectiveRpc(engine.endpoint, 'dump_weights', [resolve(directory, `${instance}.safetensors`)]);
}

await program.parseAsync();
