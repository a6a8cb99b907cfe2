import { Command } from 'commander';
import { parseCount } from '../units.ts';
import { type DaemonArguments, withDaemon, withDaemonOptions } from './daemon-arguments.ts';
import { apiKeyOf, endpointOf } from './engine-arguments.ts';
import { runCommand } from './interrupt.ts';
import { ranksOf } from './rank-arguments.ts';

interface AddOptions extends DaemonArguments {
  readonly name?: string;
  readonly endpoint: string;
  readonly ranks: string;
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
    .requiredOption(
      '--ranks <numbers>',
      'ranks of its workers, in their order, such as 0-3; rank n is on device n',
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
    .action((options: AddOptions) => runCommand(() => add(options)));
}

async function add(options: AddOptions): Promise<void> {
  const { host, engine, link, pause, resetCache } = options;
  const endpoint = endpointOf(options.endpoint);
  const name = options.name ?? endpoint;
  const ranks = ranksOf(options.ranks);
  const words = { host, engine, link, pause, resetCache, hasDraftModel: options.draftModel };
  const first = options.firstDevice && parseCount(options.firstDevice, '--first-device', 0);
  const devices = typeof first === 'number' ? ranks.map((_, index) => first + index) : undefined;
  const body = { name, endpoint, ranks, devices, ...words, ...apiKeyOf() };
  await withDaemon(options, (client) => client.call('POST', '/v1/instances', body));
  process.stdout.write(`added ${name} with ${ranks.length === 1 ? 'rank' : 'ranks'} ${ranks.join(' ')}\n`);
}

export function removeCommand(): Command {
  return withDaemonOptions(
    new Command('remove')
      .description('Remove an instance from a daemon: end its ranks. Its engine keeps running.')
      .argument('<name>', 'name of the instance'),
  ).action((name: string, options: DaemonArguments) =>
    runCommand(async () => {
      const path = `/v1/instances/${encodeURIComponent(name)}`;
      await withDaemon(options, (client) => client.call('DELETE', path));
      process.stdout.write(`removed ${name}\n`);
    }),
  );
}
