import { basename, resolve } from 'node:path';
import { Command, Option } from 'commander';
import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import type { UpdateReport } from '../actors/protocol/update-values.ts';
import { explained } from '../actors/update/words.ts';
import { readMetas } from '../checkpoint/metas.ts';
import { Cluster, type Source, type UpdateOptions } from '../cluster/cluster.ts';
import { defaultSocket } from '../daemon/default-socket.ts';
import { engineKinds, pauseOptions } from '../engines/engine-client.ts';
import { AbortedError, asFailure, describe, UsageError } from '../errors.ts';
import { summarize } from '../observe/summary.ts';
import { chromeTrace } from '../observe/timeline.ts';
import { parseBytes } from '../units.ts';
import { readAnswers } from './answers-file.ts';
import { type DaemonArguments, isDaemonMeant, withDaemonOptions } from './daemon-arguments.ts';
import { updateByDaemon } from './daemon-update.ts';
import { apiKeyOf, endpointOf } from './engine-arguments.ts';
import { type PlaceArguments, placeOf, withPlaceOptions } from './engine-place.ts';
import { interruptible, runCommand } from './interrupt.ts';
import { checkOutputFile } from './output-file.ts';
import { rankCountOf } from './rank-arguments.ts';
import { Reporter } from './reporter.ts';
import { reworded, withFailureWritten, writeOutput, writeResult } from './result-file.ts';
import { type TimeoutArguments, timeoutsOf, withTimeoutOptions } from './timeout-arguments.ts';
import { refuseUnused } from './unused-options.ts';

interface Options extends DaemonArguments, PlaceArguments, TimeoutArguments {
  readonly checkpoint?: string;
  readonly loadMetas?: string;
  readonly saveMetas?: string;
  readonly endpoint?: string;
  readonly ranks?: string;
  readonly instance?: readonly string[];
  readonly engine: string;
  readonly link?: string;
  readonly pause?: string;
  readonly resetCache?: boolean;
  readonly draftModel?: true;
  readonly name?: string;
  readonly bucket?: string;
  readonly fused?: readonly string[];
  readonly memoryFraction: string;
  readonly verify: 'arrived' | 'installed' | false;
  readonly answers?: string;
  readonly baseline?: string;
  readonly acceptUnproven?: true;
  readonly parts: boolean;
  readonly json?: string;
  readonly timeline?: string;
}

export function updateCommand(): Command {
  const command = new Command('update').description(
    'Load a checkpoint and install it in a running engine; without --endpoint, in the instances of a daemon (weightcast serve). The environment variable WEIGHTCAST_ENGINE_API_KEY holds the API key of the engine, if it has one.',
  );
  return withTimeoutOptions(withPlaceOptions(withDaemonOptions(command)))
    .option('--instance <names...>', 'instances of the daemon to update (default: all)')
    .option('--checkpoint <path>', "a safetensors file or a model's directory")
    .option(
      '--load-metas <file>',
      'instead of --checkpoint: read the checkpoint from the memory of another cluster, which wrote this file with --save-metas',
    )
    .option(
      '--save-metas <file>',
      'write a file with which other clusters can read the checkpoint from memory, and keep running until Ctrl-C',
    )
    .option('--endpoint <url>', 'HTTP endpoint of the engine, for example http://127.0.0.1:8000')
    .option('--ranks <n>', 'number of devices of the engine; one rank process is started per device')
    .addOption(
      new Option('--engine <kind>', 'vllm, sglang or lmdeploy').choices([...engineKinds]).default('vllm'),
    )
    .option(
      '--link <kind>',
      "protocol of the engine's workers: weightcast or checkpoint-engine (default: weightcast, and for lmdeploy, which has no other, checkpoint-engine)",
    )
    .addOption(pauseOption())
    .option('--draft-model', 'the engine has a draft model that receives the weights too, as in SGLang')
    .option(
      '--reset-cache',
      "drop the engine's caches, which are of the old weights, or fail (default: with --pause abort or wait; otherwise they are dropped if no requests use them)",
    )
    .option('--no-reset-cache', "leave the engine's caches as they are")
    .addOption(nameOption())
    .option(
      '--bucket <bytes>',
      'bucket size, for example 64MiB (default: the smallest that keeps the link and the engine busy, 256MiB on a GPU)',
    )
    .option(
      '--fused <modules...>',
      'modules that the engine fuses within one call, comma-separated, for example a_proj,b_proj (DeepSeek, Kimi and GLM are known)',
    )
    .option('--memory-fraction <part>', 'part of the free device memory to use, above 0 and up to 1', '0.9')
    .addOption(verifyOption())
    .addOption(answersOption())
    .option('--no-verify', 'prove nothing')
    .option('--baseline <file>', 'what the engine must hold afterwards, as weightcast baseline wrote it')
    .option('--accept-unproven', 'update also models that may answer wrongly after a reload')
    .option('--no-parts', 'send whole tensors also where it is known which parts engine workers keep')
    .option('--json <file>', 'write the result as JSON to this file')
    .option('--timeline <file>', 'write a Chrome trace of the three stages to this file, for Perfetto')
    .action((options: Options, command: Command) => {
      return runCommand((signal) => update(options, command, signal));
    });
}

function pauseOption(): Option {
  return new Option(
    '--pause <mode>',
    'pause the engine during the update: abort, wait or keep for vLLM; abort, retract or in_place for SGLang; abort for LMDeploy; caller if you pause and resume it',
  ).choices([...pauseOptions]);
}

function nameOption(): Option {
  return new Option(
    '--name <name>',
    'name of the checkpoint (default: its file name, or its name in the metas file); without --checkpoint, of one that the daemon has',
  );
}

function verifyOption(): Option {
  return new Option(
    '--verify <proof>',
    'what to prove: that the right bytes have arrived at the engine, or also that its model has installed them',
  )
    .choices(['arrived', 'installed'])
    .default('installed');
}

function answersOption(): Option {
  return new Option(
    '--answers <file>',
    'also prove that the engine answers as the trainer expects: a JSON file of prompts with the log-probabilities of their tokens (README)',
  );
}

/** Options of which only a cluster of the command's own makes use. */
const ofInstances = [
  ...['ranks', 'loadMetas', 'saveMetas', 'engine', 'link', 'pause', 'resetCache', 'draftModel'],
  ...['devices', 'firstDevice', 'host', 'launcher', 'clusterListen', 'timeline'],
];
/** Options of which only an update by a daemon does. */
const ofDaemons = ['socket', 'daemon', 'tokenFile', 'instance'];

async function update(options: Options, command: Command, signal: AbortSignal): Promise<void> {
  const updateOptions = updateOptionsOf(options);
  for (const [option, file] of outputsOf(options)) checkOutputFile(option, file);
  const { endpoint } = options;
  if (endpoint === undefined && !isDaemonMeant(options))
    throw new UsageError(
      `give --endpoint and --ranks, or start a daemon (weightcast serve): none serves on ${defaultSocket()}`,
    );
  const work = async () => {
    if (endpoint === undefined) {
      refuseUnused(
        command,
        ofInstances,
        'needs --endpoint: a daemon has it of its instances (weightcast add)',
      );
      return updateByDaemon(options, updateOptions, signal);
    }
    refuseUnused(command, ofDaemons, 'is for a daemon, and --endpoint updates without one');
    return updateAlone({ ...options, endpoint }, updateOptions, signal);
  };
  await withFailureWritten(options.json, work);
}

/** By a cluster that ends with the command. */
async function updateAlone(
  options: Options & { readonly endpoint: string },
  updateOptions: UpdateOptions,
  signal: AbortSignal,
): Promise<void> {
  if (options.ranks === undefined) throw new UsageError('--endpoint needs --ranks');
  const ranks = rankCountOf(options.ranks);
  const place = placeOf(options, ranks);
  const { source, name } = await sourceOf(options);
  const reporter = new Reporter(ranks);
  // What has been started when it is interrupted ends with this process.
  const cluster = await interruptible(
    Cluster.start({
      ranks,
      instances: [{ ...instanceOf(options, options.endpoint), ...place.instance }],
      ...place.cluster,
      onProgress: (progress) => reporter.progress(progress),
    }),
    signal,
  );
  try {
    await interruptible(cluster.register(name, source), signal);
    // An engine that is still paused would have nobody left who tries to resume it.
    const whole = { ...updateOptions, atomic: true };
    const report = await updated(cluster, () => cluster.update(name, whole), signal);
    reporter.end();
    const summary = summarize(report);
    reporter.table(summary);
    writeResult(options.json, summary);
    writeOutput(options.timeline, () => JSON.stringify(chromeTrace(report.timelines)));
    if (options.saveMetas !== undefined) await stayReadable(cluster, name, options.saveMetas, signal);
  } catch (error) {
    throw await atTheEnd(cluster, error);
  } finally {
    reporter.end();
    await cluster.stop();
  }
}

/** The error of an update whose cluster ends with the command, and with what became of the engine that it had paused. */
async function atTheEnd(cluster: Cluster, thrown: unknown): Promise<unknown> {
  const ended = await cluster.stop().catch(asFailure);
  const { instances } = asFailure(thrown);
  const isPaused = instances?.some(({ paused, outcome }) => paused && outcome !== 'broken') ?? false;
  if (ended instanceof Error || (!isPaused && ended.engines.length === 0)) return thrown;
  const isResumed = ended.engines.length === 0;
  const words = isResumed ? ['the cluster has ended, and the engine is resumed'] : ended.engines;
  const now = isResumed ? instances?.map((one) => ({ ...one, paused: false })) : instances;
  return reworded(explained(asFailure(thrown), words), { ...(now !== undefined && { instances: now }) });
}

function outputsOf({ json, timeline, saveMetas }: Options) {
  return [
    ['--json', json],
    ['--timeline', timeline],
    ['--save-metas', saveMetas],
  ] as const;
}

/** After Ctrl-C, stops the cluster, and rejects with what became of the engine. */
async function updated(
  cluster: Cluster,
  update: () => Promise<UpdateReport>,
  signal: AbortSignal,
): Promise<UpdateReport> {
  const report = update();
  try {
    return await interruptible(report, signal);
  } catch (error) {
    if (!signal.aborted) throw error;
    await cluster.stop();
    const failure = await report.then(
      () => null,
      (thrown) => asFailure(thrown),
    );
    const outcome = failure === null ? 'the update succeeded before that' : failure.message;
    throw reworded(new AbortedError(`${describe(error)}: ${outcome}`), failure ?? {});
  }
}

/** Keeps the checkpoint readable until Ctrl-C, which is not a failure here. */
async function stayReadable(
  cluster: Cluster,
  name: string,
  file: string,
  signal: AbortSignal,
): Promise<void> {
  await interruptible(cluster.saveMetas(name, file), signal);
  process.stdout.write(`\nother clusters can read ${name} with ${file} until you press Ctrl-C\n`);
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

/** `Cluster.start` rejects invalid values of `engine`, `link` and `pause`. */
function instanceOf(options: Options, endpoint: string): InstanceOptions {
  const { engine, link, pause, resetCache, draftModel } = options;
  const words = { engine, ...(link !== undefined && { link }), ...(pause !== undefined && { pause }) };
  return {
    name: 'engine',
    endpoint: endpointOf(endpoint),
    ...(words as Pick<InstanceOptions, 'engine' | 'link' | 'pause'>),
    ...(resetCache !== undefined && { resetCache }),
    ...(draftModel && { hasDraftModel: draftModel }),
    ...apiKeyOf(),
  };
}

function verifyOf({ verify, answers, baseline }: Options): NonNullable<UpdateOptions['verify']> {
  if (baseline !== undefined && verify !== 'installed')
    throw new UsageError('--baseline is compared with what is installed: it needs --verify installed');
  if (answers !== undefined && verify === false)
    throw new UsageError('--answers asks for a proof, and --no-verify for none');
  if (verify === false) return false;
  return {
    installed: verify === 'installed',
    ...(baseline !== undefined && { baseline: resolve(baseline) }),
    ...(answers !== undefined && { answers: readAnswers(answers) }),
  };
}

function updateOptionsOf(options: Options): UpdateOptions {
  const memoryFraction = Number(options.memoryFraction);
  if (!(memoryFraction > 0 && memoryFraction <= 1)) {
    throw new UsageError(
      `--memory-fraction is "${options.memoryFraction}"; it must be a number above 0 and up to 1`,
    );
  }
  return {
    memoryFraction,
    verify: verifyOf(options),
    ...(options.acceptUnproven && { acceptUnproven: true }),
    ...(!options.parts && { parts: false }),
    ...timeoutsOf(options),
    ...(options.bucket === undefined ? {} : { bucketBytes: parseBytes(options.bucket, '--bucket') }),
    ...(options.fused && { fusedModules: options.fused.map(fusedOf) }),
  };
}

function fusedOf(option: string): string[] {
  const modules = option.split(',');
  if (modules.length < 2 || modules.includes(''))
    throw new UsageError(`--fused is "${option}"; name two modules or more, as in a_proj,b_proj`);
  return modules;
}
