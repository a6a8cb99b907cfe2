import { basename, resolve } from 'node:path';
import { Command } from 'commander';
import { formatBytes } from '../units.ts';
import { type DaemonArguments, withDaemon, withDaemonOptions } from './daemon-arguments.ts';
import { runCommand } from './interrupt.ts';

interface Options extends DaemonArguments {
  readonly name?: string;
}

/** What the daemon answers, as far as it is shown. */
interface Registered {
  readonly name: string;
  readonly digest: string | null;
  readonly state: string;
  readonly tensors: number;
  readonly bytes: number;
  readonly seconds: number | null;
}

export function registerCommand(): Command {
  return withDaemonOptions(
    new Command('register')
      .description("Register a checkpoint with a daemon: load it into the memory of its ranks' hosts.")
      .argument('<path...>', "a model's directory, or safetensors files"),
  )
    .option('--name <name>', 'name of the checkpoint (default: its file name)')
    .action((paths: string[], options: Options) => runCommand((signal) => register(paths, options, signal)));
}

async function register(paths: readonly string[], options: Options, signal: AbortSignal): Promise<void> {
  const files = paths.map((path) => resolve(path));
  const name = options.name ?? basename(files[0]!);
  const source = files.length === 1 ? { path: files[0] } : { files };
  const answer = await withDaemon(options, signal, (client) =>
    client.call('POST', '/v1/checkpoints', { name, ...source }),
  );
  process.stdout.write(`${textOf(answer as Registered)}\n`);
}

export function textOf({ name, digest, state, tensors, bytes, seconds }: Registered): string {
  const size = `${tensors} tensors, ${formatBytes(bytes)}`;
  if (state === 'waiting')
    return `registered ${name} (${size}); it is loaded when the first instance is added`;
  return `registered ${name}@${digest} (${size}) in ${(seconds ?? 0).toFixed(2)} s`;
}
