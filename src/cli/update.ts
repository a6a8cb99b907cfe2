import { writeFileSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { Command } from 'commander';
import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import { readMetas } from '../checkpoint/metas.ts';
import { Cluster, type Source, type UpdateOptions } from '../cluster/cluster.ts';
import { UsageError } from '../errors.ts';
import { chromeTrace } from '../observe/timeline.ts';
import { parseBytes, parseCount } from '../observe/units.ts';
import { type DeviceOptions, defaultDevices } from '../processes/devices.ts';
import { interruptible, runCommand } from './interrupt.ts';
import { Narrator } from './narrator.ts';
import { summarize } from './summary.ts';

interface Options {
  readonly checkpoint?: string;
  readonly loadMetas?: string;
  readonly saveMetas?: string;
  readonly endpoint: string;
  readonly ranks: string;
  readonly engine: string;
  readonly link: string;
  readonly pause?: string;
  readonly resetCache?: true;
  readonly draftModel?: true;
  readonly name?: string;
  readonly devices?: string;
  readonly firstDevice: string;
  readonly bucket?: string;
  readonly memoryFraction: string;
  readonly timeout: string;
  readonly verify: boolean;
  readonly json?: string;
  readonly timeline?: string;
}

export function updateCommand(): Command {
  return new Command('update')
    .description(
      'Load a checkpoint and bring it into a running engine. WEIGHTCAST_ENGINE_API_KEY holds its API key, if it has one.',
    )
    .option('--checkpoint <path>', 'a safetensors file or the directory of a model')
    .option(
      '--load-metas <file>',
      'instead of --checkpoint: read the checkpoint from the memory of another cluster, whose --save-metas wrote the file',
    )
    .option(
      '--save-metas <file>',
      'write where the checkpoint lies in memory, and stay until Ctrl-C, so that other clusters can read it',
    )
    .requiredOption('--endpoint <url>', 'HTTP endpoint of the engine, such as http://127.0.0.1:8000')
    .requiredOption(
      '--ranks <n>',
      'how many devices the engine runs on; one rank process is started for each',
    )
    .option('--engine <kind>', 'vllm or sglang', 'vllm')
    .option('--link <kind>', "what the engine's workers speak: weightcast or checkpoint-engine", 'weightcast')
    .option(
      '--pause <mode>',
      'pause the engine meanwhile: abort, wait or keep; of SGLang abort, retract or in_place',
    )
    .option(
      '--draft-model',
      'the engine speculates with a draft model that takes the weights too, as SGLang has it',
    )
    .option('--reset-cache', "drop the engine's prefix cache, which the old weights computed")
    .option('--name <name>', 'name of the checkpoint (default: its file name, or what the metas call it)')
    .option(
      '--devices <kind>',
      'what the engine runs on: cuda, host, or host:NAMESPACE (default: GPUs where there are any)',
    )
    .option('--first-device <n>', "device of the engine's first worker", '0')
    .option(
      '--bucket <bytes>',
      'size of a bucket, such as 64MiB (default: the smallest that keeps the link busy)',
    )
    .option('--memory-fraction <part>', 'part of the free device memory to use', '0.9')
    .option('--timeout <seconds>', 'the update fails when it takes longer', '600')
    .option('--no-verify', 'do not have the engine prove by digests what it holds')
    .option('--json <file>', 'write the result as JSON')
    .option('--timeline <file>', 'write a Chrome trace of the three stages, for Perfetto')
    .action((options: Options) => runCommand((signal) => update(options, signal)));
}

async function update(options: Options, signal: AbortSignal): Promise<void> {
  const ranks = parseCount(options.ranks, '--ranks');
  const settings = settingsOf(options);
  const { source, name } = await sourceOf(options);
  const narrator = new Narrator();
  const cluster = await Cluster.start({
    ranks,
    instances: [instanceOf(options, ranks)],
    devices: devicesOf(options, ranks),
    onProgress: (progress) => narrator.progress(progress),
  });
  try {
    await interruptible(cluster.register(name, source), signal);
    const report = await interruptible(cluster.update(name, settings), signal);
    narrator.end();
    const summary = summarize(report);
    narrator.table(summary);
    if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(summary, null, 2)}\n`);
    if (options.timeline !== undefined)
      writeFileSync(options.timeline, JSON.stringify(chromeTrace(report.timelines)));
    if (options.saveMetas !== undefined) await stayReadable(cluster, name, options.saveMetas, signal);
  } finally {
    narrator.end();
    await cluster.stop();
  }
}

/** Until Ctrl-C, which here is the usual end and no failure. */
async function stayReadable(
  cluster: Cluster,
  name: string,
  file: string,
  signal: AbortSignal,
): Promise<void> {
  await interruptible(cluster.saveMetas(name, file), signal);
  process.stdout.write(`\nother clusters can read ${name} by ${file}; Ctrl-C ends it\n`);
  await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
}

async function sourceOf({ checkpoint, loadMetas, name }: Options): Promise<{ source: Source; name: string }> {
  if (checkpoint !== undefined && loadMetas === undefined) {
    return { source: checkpoint, name: name ?? basename(resolve(checkpoint)) };
  }
  if (loadMetas !== undefined && checkpoint === undefined) {
    return { source: { metas: loadMetas }, name: name ?? (await readMetas(loadMetas)).checkpoint };
  }
  throw new UsageError('give either --checkpoint or --load-metas');
}

function devicesOf({ devices, firstDevice }: Options, ranks: number): DeviceOptions {
  const first = parseCount(firstDevice, '--first-device', 0);
  const kind = devices ?? defaultDevices().kind;
  const namespace = /^host(?::(.+))?$/.exec(kind)?.[1];
  if (kind === 'cuda') return { kind, indices: Array.from({ length: ranks }, (_, rank) => first + rank) };
  if (kind === 'host' || namespace !== undefined) {
    return { kind: 'host', first, ...(namespace !== undefined && { namespace }) };
  }
  throw new UsageError(`--devices must be cuda, host or host:NAMESPACE, not "${kind}"`);
}

/** Words that are not among an option's are left to `Cluster.start`, which names them. */
function instanceOf(options: Options, ranks: number): InstanceOptions {
  const { engine, link, pause, resetCache, draftModel } = options;
  const apiKey = process.env.WEIGHTCAST_ENGINE_API_KEY;
  const words = { engine, link, ...(pause !== undefined && { pause }) };
  return {
    name: 'engine',
    endpoint: endpointOf(options.endpoint),
    ranks: [...Array(ranks).keys()],
    ...(words as Pick<InstanceOptions, 'engine' | 'link' | 'pause'>),
    ...(resetCache && { resetCache }),
    ...(draftModel && { hasDraftModel: draftModel }),
    ...(apiKey && { apiKey }),
  };
}

function settingsOf(options: Options): UpdateOptions {
  const memoryFraction = Number(options.memoryFraction);
  if (!(memoryFraction > 0 && memoryFraction <= 1)) {
    throw new UsageError(
      `--memory-fraction is "${options.memoryFraction}"; give a number above 0 and up to 1`,
    );
  }
  return {
    memoryFraction,
    verify: options.verify,
    timeoutMilliseconds: parseCount(options.timeout, '--timeout') * 1000,
    ...(options.bucket === undefined ? {} : { bucketBytes: parseBytes(options.bucket, '--bucket') }),
  };
}

function endpointOf(text: string): string {
  if (!URL.canParse(text) || !['http:', 'https:', 'unix:'].includes(new URL(text).protocol)) {
    throw new UsageError(`--endpoint is "${text}"; give a URL such as http://127.0.0.1:8000`);
  }
  return text.replace(/\/+$/, '');
}
