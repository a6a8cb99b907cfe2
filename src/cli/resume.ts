import { Command } from 'commander';
import type { EngineOptions } from '../engines/engine-options.ts';
import { checkEngineOptions, createEngineClient } from '../engines/engine-options.ts';
import { UsageError } from '../errors.ts';
import { systemClock } from '../native-bridge/clock.ts';
import { parseSeconds } from '../units.ts';
import { type DaemonArguments, withDaemon, withDaemonOptions } from './daemon-arguments.ts';
import { apiKeyOf, endpointOf } from './engine-arguments.ts';
import { runCommand } from './interrupt.ts';
import { refuseUnused } from './unused-options.ts';

interface Options extends DaemonArguments {
  readonly endpoint?: string;
  readonly instance?: string;
  readonly engine: string;
  readonly timeout: string;
}

export function resumeCommand(): Command {
  return withDaemonOptions(
    new Command('resume').description(
      'Resume an engine that was left paused, whatever weights it holds. The environment variable WEIGHTCAST_ENGINE_API_KEY holds the API key of the engine, if it has one.',
    ),
  )
    .option('--endpoint <url>', 'HTTP endpoint of the engine, for example http://127.0.0.1:8000')
    .option('--instance <name>', 'instead of --endpoint: an instance of a daemon')
    .option('--engine <kind>', 'vllm, sglang or lmdeploy', 'vllm')
    .option('--timeout <seconds>', 'time limit', '30')
    .action((options: Options, command: Command) => runCommand((signal) => resume(options, command, signal)));
}

async function resume(options: Options, command: Command, signal: AbortSignal): Promise<void> {
  const { endpoint, instance } = options;
  if ((endpoint === undefined) === (instance === undefined))
    throw new UsageError('give either --endpoint or --instance');
  if (endpoint !== undefined) {
    refuseUnused(command, ['socket', 'daemon', 'tokenFile'], 'is for a daemon, and --endpoint needs none');
    return resumeEngine({ ...options, endpoint }, signal);
  }
  refuseUnused(command, ['engine', 'timeout'], 'needs --endpoint: a daemon has it of its instances');
  const path = `/v1/instances/${encodeURIComponent(instance!)}/resume`;
  await withDaemon(options, signal, (client) => client.call('POST', path));
  process.stdout.write(`instance ${instance} is resumed\n`);
}

async function resumeEngine(
  { endpoint, engine, timeout }: Options & { readonly endpoint: string },
  signal: AbortSignal,
): Promise<void> {
  const timeoutMilliseconds = parseSeconds(timeout, '--timeout');
  const options = { endpoint: endpointOf(endpoint), ...apiKeyOf(), engine } as EngineOptions;
  checkEngineOptions('engine', { ...options, pause: 'caller' });
  const client = createEngineClient(options, systemClock);
  try {
    await client.resume({ timeoutMilliseconds, signal });
    process.stdout.write(`engine ${client.endpoint} is resumed\n`);
  } finally {
    await client.close();
  }
}
