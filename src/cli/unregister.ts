import { Command } from 'commander';
import { type DaemonArguments, withDaemon, withDaemonOptions } from './daemon-arguments.ts';
import { runCommand } from './interrupt.ts';

export function unregisterCommand(): Command {
  return withDaemonOptions(
    new Command('unregister')
      .description('Unregister a checkpoint of a daemon: its host memory is free for later ones.')
      .argument('<name>', 'name of the checkpoint'),
  ).action((name: string, options: DaemonArguments) =>
    runCommand(async (signal) => {
      const path = `/v1/checkpoints/${encodeURIComponent(name)}`;
      await withDaemon(options, signal, (client) => client.call('DELETE', path));
      process.stdout.write(`unregistered ${name}\n`);
    }),
  );
}
