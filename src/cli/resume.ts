import { Command } from 'commander';
import type { EngineOptions } from '../engines/engine-options.ts';
import { checkEngineOptions, createEngineClient } from '../engines/engine-options.ts';
import { systemClock } from '../native-bridge/clock.ts';
import { parseCount } from '../units.ts';
import { apiKeyOf, endpointOf } from './engine-arguments.ts';
import { runCommand } from './interrupt.ts';

interface Options {
  readonly endpoint: string;
  readonly engine: string;
  readonly timeout: string;
}

export function resumeCommand(): Command {
  return new Command('resume')
    .description(
      'Resume an engine that was left paused, whatever weights it holds. The environment variable WEIGHTCAST_ENGINE_API_KEY holds the API key of the engine, if it has one.',
    )
    .requiredOption('--endpoint <url>', 'HTTP endpoint of the engine, for example http://127.0.0.1:8000')
    .option('--engine <kind>', 'vllm or sglang', 'vllm')
    .option('--timeout <seconds>', 'time limit', '30')
    .action((options: Options) => runCommand((signal) => resume(options, signal)));
}

async function resume({ endpoint, engine, timeout }: Options, signal: AbortSignal): Promise<void> {
  const timeoutMilliseconds = parseCount(timeout, '--timeout') * 1000;
  const options = { endpoint: endpointOf(endpoint), ...apiKeyOf(), engine } as EngineOptions;
  checkEngineOptions('engine', options);
  const client = createEngineClient(options, systemClock);
  try {
    await client.resume({ timeoutMilliseconds, signal });
    process.stdout.write(`engine ${client.endpoint} is resumed\n`);
  } finally {
    await client.close();
  }
}
