import { Command } from 'commander';
import type * as z from 'zod';
import type { statusAnswer } from '../daemon/schemas.ts';
import { UsageError } from '../errors.ts';
import { parseCount } from '../units.ts';
import { type DaemonArguments, withDaemon, withDaemonOptions } from './daemon-arguments.ts';
import { apiKeyOf, endpointOf } from './engine-arguments.ts';
import { runCommand } from './interrupt.ts';
import { ranksOf, workersOf } from './rank-arguments.ts';

interface AddOptions extends DaemonArguments {
  readonly name?: string;
  readonly endpoint: string;
  readonly ranks?: string;
  readonly workers?: readonly string[];
  readonly host?: string;
  readonly firstDevice?: string;
  readonly engine?: string;
  readonly link?: string;
  readonly pause?: string;
  readonly resetCache?: true;
  readonly draftModel?: true;
}

export function addCommand(): Command {
  return withDaemonOptions(
    new Command('add').description(
      'Add a running engine to a daemon. The environment variable WEIGHTCAST_ENGINE_API_KEY holds the API key of the engine, if it has one.',
    ),
  )
    .requiredOption('--endpoint <url>', 'HTTP endpoint of the engine, for example http://127.0.0.1:8000')
    .option('--ranks <numbers>', 'ranks of its workers, in their order, such as 0-3; rank n is on device n')
    .option(
      '--workers <devices...>',
      "in place of --ranks: devices of its workers, in their order, on each of its hosts, such as 0-7 node-2:0-7; hosts are those of the daemon's configuration",
    )
    .option('--name <name>', 'name of the instance (default: its endpoint)')
    .option(
      '--host <name>',
      "host of the ranks, one of the daemon's configuration (default: the daemon's host)",
    )
    .option(
      '--first-device <n>',
      "number of the first worker's device on its host (default: the number of its rank)",
    )
    .option('--engine <kind>', 'vllm, sglang or lmdeploy (default: vllm)')
    .option(
      '--link <kind>',
      "protocol of the engine's workers: weightcast or checkpoint-engine (default: weightcast)",
    )
    .option(
      '--pause <mode>',
      'pause the engine during updates: abort, wait or keep for vLLM; abort, retract or in_place for SGLang; abort for LMDeploy; caller if you pause and resume it',
    )
    .option('--draft-model', 'the engine has a draft model that receives the weights too, as in SGLang')
    .option('--reset-cache', "drop the engine's caches after updates")
    .action((options: AddOptions) => runCommand((signal) => add(options, signal)));
}

async function add(options: AddOptions, signal: AbortSignal): Promise<void> {
  const { host, engine, link, pause, resetCache } = options;
  const endpoint = endpointOf(options.endpoint);
  const name = options.name ?? endpoint;
  const words = { host, engine, link, pause, resetCache, hasDraftModel: options.draftModel };
  const body = { name, endpoint, ...placesOf(options), ...words, ...apiKeyOf() };
  const added = await withDaemon(options, signal, (client) => client.call('POST', '/v1/instances', body));
  const { instances } = added as z.infer<typeof statusAnswer>;
  const { ranks } = instances.find((one) => one.name === name)!;
  process.stdout.write(`added ${name} with ${ranks.length === 1 ? 'rank' : 'ranks'} ${ranks.join(' ')}\n`);
}

function placesOf({ ranks: given, workers, firstDevice, host }: AddOptions) {
  if (workers !== undefined) {
    const other = Object.entries({ ranks: given, 'first-device': firstDevice, host }).find(
      ([, value]) => value,
    );
    if (other !== undefined)
      throw new UsageError(`--workers says where all workers are; leave out --${other[0]}`);
    return { workers: workers.map(workersOf) };
  }
  if (given === undefined) throw new UsageError('give --ranks, or --workers for an engine on several hosts');
  const ranks = ranksOf(given);
  if (firstDevice === undefined) return { ranks };
  const first = parseCount(firstDevice, '--first-device', 0);
  return { ranks, devices: ranks.map((_, index) => first + index) };
}

export function removeCommand(): Command {
  return withDaemonOptions(
    new Command('remove')
      .description('Remove an instance from a daemon: end its ranks. Its engine keeps running.')
      .argument('<name>', 'name of the instance'),
  ).action((name: string, options: DaemonArguments) =>
    runCommand(async (signal) => {
      const path = `/v1/instances/${encodeURIComponent(name)}`;
      await withDaemon(options, signal, (client) => client.call('DELETE', path));
      process.stdout.write(`removed ${name}\n`);
    }),
  );
}
