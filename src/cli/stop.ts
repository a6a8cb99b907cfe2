import { setTimeout } from 'node:timers/promises';
import { Command } from 'commander';
import { DeadlineError } from '../errors.ts';
import { isRunning } from '../processes/is-running.ts';
import { type DaemonArguments, withDaemon, withDaemonOptions } from './daemon-arguments.ts';
import { interruptible, runCommand } from './interrupt.ts';

/** A daemon ends its updates and ranks, and kills what does not end: it takes no longer than this. */
const stopMilliseconds = 120_000;
const pollMilliseconds = 50;

export function stopCommand(): Command {
  return withDaemonOptions(
    new Command('stop').description(
      'End a daemon, its ranks, and all that it has in shared memory. Engines keep running.',
    ),
  ).action((options: DaemonArguments) => runCommand((signal) => stop(options, signal)));
}

async function stop(options: DaemonArguments, signal: AbortSignal): Promise<void> {
  const pid = await withDaemon(options, signal, async (client) => {
    const { daemon } = (await client.call('GET', '/v1/status')) as { daemon: { pid: number } };
    await client.call('POST', '/v1/stop');
    return daemon.pid;
  });
  // On another host it cannot be seen.
  if (options.daemon === undefined) await interruptible(ended(pid), signal);
  process.stdout.write(options.daemon === undefined ? 'the daemon has ended\n' : 'the daemon is stopping\n');
}

async function ended(pid: number): Promise<void> {
  const end = performance.now() + stopMilliseconds;
  while (isRunning(pid)) {
    if (performance.now() > end)
      throw new DeadlineError(`the daemon (process ${pid}) has not ended within ${stopMilliseconds} ms`);
    await setTimeout(pollMilliseconds);
  }
}
