import { Command } from 'commander';
import { Baseline } from '../cluster/baseline.ts';
import type { EngineOptions } from '../engines/engine-options.ts';
import { parseSeconds } from '../units.ts';
import { apiKeyOf, endpointOf } from './engine-arguments.ts';
import { runCommand } from './interrupt.ts';
import { checkOutputFile } from './output-file.ts';

interface Options {
  readonly endpoint: readonly string[];
  readonly output: string;
  readonly draftModel?: true;
  readonly timeout: string;
}

export function baselineCommand(): Command {
  return new Command('baseline')
    .description(
      'Write down what an engine holds that was started with the files of a version, and not updated since, for `weightcast update --baseline`. Nothing in the engine changes. The environment variable WEIGHTCAST_ENGINE_API_KEY holds the API key of the engine, if it has one.',
    )
    .requiredOption(
      '--endpoint <urls...>',
      'HTTP endpoint of the engine, on this host; with those of several that were started with the same files, what differs between two starts is not compared',
    )
    .requiredOption('--output <file>', 'the file to write')
    .option('--draft-model', 'the engine has a draft model that receives the weights too')
    .option('--timeout <seconds>', 'time limit of each call', '60')
    .action((options: Options) => runCommand((signal) => baseline(options, signal)));
}

async function baseline(
  { endpoint, output, draftModel, timeout }: Options,
  signal: AbortSignal,
): Promise<void> {
  const timeoutMilliseconds = parseSeconds(timeout, '--timeout');
  checkOutputFile('--output', output);
  const engines = endpoint.map(
    (one): EngineOptions => ({
      endpoint: endpointOf(one),
      ...apiKeyOf(),
      ...(draftModel && { hasDraftModel: true }),
    }),
  );
  const taken = await Baseline.of(engines, { timeoutMilliseconds, signal });
  taken.write(output);
  for (const { place, names, differing } of taken.places) {
    const left = differing.length === 0 ? '' : `, of which ${differing.length} differ between two starts`;
    process.stdout.write(`${describePlace(place)}: ${names.length} tensors${left}\n`);
  }
}

function describePlace(place: Readonly<Record<string, string | number>>): string {
  const ranks = ['tp', 'pp', 'ep', 'dcp'].flatMap((group) => {
    return place[group] === undefined ? [] : [`${group} ${place[group]}`];
  });
  return [place.which, place.model, place.device, ...ranks].filter(Boolean).join(', ');
}
