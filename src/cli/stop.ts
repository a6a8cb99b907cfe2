import { Command } from 'commander';
import { type DaemonArguments, withDaemon, withDaemonOptions } from './daemon-arguments.ts';
import { runCommand } from './interrupt.ts';

export function stopCommand(): Command {
  return withDaemonOptions(
    new Command('stop').description(
      'End a daemon, its ranks, and all that it has in shared memory. Engines keep running.',
    ),
  ).action((options: DaemonArguments) =>
    runCommand(async () => {
      await withDaemon(options, (client) => client.call('POST', '/v1/stop'));
      process.stdout.write('the daemon is stopping\n');
    }),
  );
}
