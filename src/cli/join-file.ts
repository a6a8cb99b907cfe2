import { resolve } from 'node:path';
import { Command } from 'commander';
import { writeSecret } from '../secret-file.ts';
import { type DaemonArguments, withDaemon, withDaemonOptions } from './daemon-arguments.ts';
import { runCommand } from './interrupt.ts';
import { checkOutputFile } from './output-file.ts';

interface Options extends DaemonArguments {
  readonly output?: string;
}

export function joinFileCommand(): Command {
  return withDaemonOptions(
    new Command('join-file')
      .description(
        'Get the join file of a host from a daemon: with it, weightcast agent starts the ranks of that host. It is a secret, and valid as long as the daemon runs.',
      )
      .argument('<host>', 'name of a host that joins (weightcast serve --host)'),
  )
    .option('--output <file>', 'write it to this file, for its owner only (default: standard output)')
    .action((host: string, options: Options) => runCommand((signal) => get(host, options, signal)));
}

async function get(host: string, { output, ...daemon }: Options, signal: AbortSignal): Promise<void> {
  checkOutputFile('--output', output);
  const path = `/v1/hosts/${encodeURIComponent(host)}/join-file`;
  const { joinFile } = (await withDaemon(daemon, signal, (client) => client.call('GET', path))) as {
    joinFile: string;
  };
  if (output === undefined) process.stdout.write(joinFile);
  else await writeSecret(resolve(output), joinFile);
}
