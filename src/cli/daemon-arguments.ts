import type { Command } from 'commander';
import { DaemonClient, isSocketOfUser } from '../daemon/client.ts';
import { readToken } from '../daemon/configuration.ts';
import { defaultSocket } from '../daemon/default-socket.ts';
import { NotReadyError, UsageError } from '../errors.ts';
import { interruptible } from './interrupt.ts';

/** Which daemon a command talks to. */
export interface DaemonArguments {
  readonly socket?: string;
  readonly daemon?: string;
  readonly tokenFile?: string;
}

export function withDaemonOptions(command: Command): Command {
  return command
    .option(
      '--socket <path>',
      'socket of the daemon (default: WEIGHTCAST_SOCKET, or weightcast.sock in XDG_RUNTIME_DIR or /tmp/weightcast-UID)',
    )
    .option(
      '--daemon <url>',
      'in place of --socket: where the daemon listens on TCP, such as http://10.0.0.1:7100',
    )
    .option('--token-file <file>', 'file with the token of --daemon');
}

/** Whether a daemon is named, or one serves where it is looked for. */
export function isDaemonMeant({ socket, daemon }: DaemonArguments): boolean {
  return socket !== undefined || daemon !== undefined || isSocketOfUser(defaultSocket());
}

/**
 * Calls `work` with the daemon that is meant. Rejects with `NotReadyError` where there is none, and as soon as the signal aborts:
 * the daemon may go on with what it was asked for.
 */
export async function withDaemon<T>(
  options: DaemonArguments,
  signal: AbortSignal,
  work: (client: DaemonClient) => Promise<T>,
): Promise<T> {
  const client = clientOf(options);
  try {
    return await interruptible(work(client), signal);
  } finally {
    await client.close();
  }
}

function clientOf({ socket, daemon, tokenFile }: DaemonArguments): DaemonClient {
  if (daemon === undefined) {
    if (tokenFile !== undefined) throw new UsageError('--token-file belongs to --daemon');
    const path = socket ?? defaultSocket();
    // Whoever made another one would be told our paths and keys.
    if (!isSocketOfUser(path))
      throw new NotReadyError(`no daemon of this user serves on ${path}; start one with weightcast serve`);
    return new DaemonClient({ socket: path });
  }
  if (socket !== undefined) throw new UsageError('give either --socket or --daemon');
  if (!URL.canParse(daemon) || !['http:', 'https:'].includes(new URL(daemon).protocol))
    throw new UsageError(`--daemon is "${daemon}"; it must be a URL, for example http://10.0.0.1:7100`);
  return new DaemonClient({ url: daemon, token: tokenFile === undefined ? null : readToken(tokenFile) });
}
