import { isIP } from 'node:net';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Command, Option } from 'commander';
import { readConfiguration, readToken } from '../daemon/configuration.ts';
import type { DaemonOptions } from '../daemon/daemon.ts';
import { defaultSocket } from '../daemon/default-socket.ts';
import { UsageError } from '../errors.ts';
import { probeCuda } from '../native-bridge/probe.ts';
import { packageRoot } from '../package-root.ts';
import { devicesOf } from './device-arguments.ts';
import { runCommand } from './interrupt.ts';

interface Options {
  readonly socket?: string;
  readonly listen?: string;
  readonly tokenFile?: string;
  readonly root: readonly string[];
  readonly allowEngine: readonly string[];
  readonly config?: string;
  readonly clusterListen?: string;
  readonly host: readonly string[];
  readonly devices?: string;
  readonly linger?: string;
  readonly keepVersions?: string;
}

/** Host devices are for machines without a GPU: as many ranks as that share the cores. */
const hostDeviceRanks = 4;

/** A day. */
const longestSeconds = 86_400;

/** An option that may be given again. `without`: what holds where it is not given. */
function repeated(flags: string, description: string, without: string): Option {
  return new Option(flags, `${description}; may be given again`)
    .argParser((value: string, before: readonly string[]) => [...before, value])
    .default([], without);
}

export function serveCommand(version: string): Command {
  return new Command('serve')
    .description(
      `Keep a cluster for trainers: a daemon that is asked over HTTP, on a socket that only this user may use. It is described in ${fileURLToPath(new URL('docs/daemon.md', packageRoot))}.`,
    )
    .option(
      '--socket <path>',
      'path of the socket (default: WEIGHTCAST_SOCKET, or weightcast.sock in XDG_RUNTIME_DIR or /tmp/weightcast-UID)',
    )
    .option('--listen <host:port>', 'listen on TCP too, for clients that have the token')
    .option('--token-file <file>', 'file with the token for --listen')
    .addOption(
      repeated('--root <directory>', 'files below it may be registered', 'every file, or with --listen none'),
    )
    .addOption(
      repeated(
        '--allow-engine <address>',
        'an engine that may be added, beside those on loopback addresses and in --config: host, host:port, URL, network such as 10.0.0.0/8, or unix:/path',
        'no other',
      ),
    )
    .option('--config <file>', 'JSON with instances, hosts and more')
    .option(
      '--cluster-listen <address>',
      'where agents and ranks of other hosts connect, such as tcp://10.0.0.1:7000',
    )
    .addOption(
      repeated(
        '--host <name>',
        'another host, whose agent joins with its join file (weightcast join-file); needs --cluster-listen',
        'those in --config',
      ),
    )
    .option('--linger <seconds>', 'end so long after the last client (default: stay)')
    .option(
      '--keep-versions <seconds>',
      'if it is killed, complete versions stay so long in shared memory, for the next daemon on the socket (default: 600)',
    )
    .option(
      '--devices <kind>',
      'devices of the engines: cuda, host, or host:NAMESPACE; rank n is on device n (default: cuda if there are GPUs, otherwise host)',
    )
    .action((options: Options) => runCommand((signal) => serve(options, version, signal)));
}

async function serve(options: Options, version: string, signal: AbortSignal): Promise<void> {
  const daemonOptions = daemonOptionsOf(options, version);
  // Late, because it is half of what this program reads, and other commands need none of it.
  const { Daemon } = await import('../daemon/daemon.ts');
  const daemon = await Daemon.start(daemonOptions);
  try {
    const places = [daemon.socket, ...(daemon.url === null ? [] : [daemon.url])].join(' and ');
    process.stdout.write(`weightcast ${version} serves on ${places}; press Ctrl-C to stop\n`);
    // Its end by a signal is what it is asked for, and no failure.
    const interrupted = new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      signal.addEventListener('abort', () => resolve(), { once: true });
    });
    await Promise.race([interrupted, daemon.stopRequested]);
  } finally {
    await daemon.stop();
  }
}

function daemonOptionsOf(options: Options, version: string): DaemonOptions {
  const config = options.config === undefined ? null : readConfiguration(options.config);
  const roots = [...options.root, ...(config?.roots ?? [])];
  const listen = listenOf(options);
  const { linger, keepVersions } = options;
  const { fabricAddresses, spareCheckpoints, startTimeoutSeconds } = config ?? {};
  const clusterListen = options.clusterListen ?? config?.clusterListen;
  const joining = Object.fromEntries(options.host.map((name) => [name, { joins: true as const }]));
  return {
    version,
    socket: options.socket ?? defaultSocket(),
    ...(listen !== null && { listen }),
    ...(linger !== undefined && { linger: secondsOf('--linger', linger) }),
    ...(keepVersions !== undefined && { keepVersions: secondsOf('--keep-versions', keepVersions) }),
    // Who may use the socket may read these files anyway.
    roots: roots.length > 0 || listen !== null ? roots : ['/'],
    allowEngines: [...options.allowEngine, ...(config?.allowEngines ?? [])],
    instances: config?.instances ?? [],
    cluster: {
      ...devicesAndThreads(options.devices),
      hosts: { ...config?.hosts, ...joining },
      ...(clusterListen !== undefined && { listen: clusterListen }),
      ...(fabricAddresses !== undefined && { fabricAddresses }),
      ...(spareCheckpoints !== undefined && { spareCheckpoints }),
      ...(startTimeoutSeconds !== undefined && {
        startTimeoutMilliseconds: Math.ceil(startTimeoutSeconds * 1_000),
      }),
    },
  };
}

/** The cores are for as many ranks as there are devices; a cluster that begins without ranks cannot know. */
function devicesAndThreads(option: string | undefined) {
  const devices = devicesOf(option);
  const ranks = devices.kind === 'cuda' ? probeCuda().devices.length : hostDeviceRanks;
  // Otherwise each host has what is there.
  const asked = option === undefined ? {} : { devices };
  return { ...asked, threads: Math.max(1, Math.floor(availableParallelism() / Math.max(1, ranks))) };
}

function secondsOf(name: string, option: string): number {
  const seconds = Number(option);
  if (option.trim() === '' || !(seconds >= 0 && seconds <= longestSeconds))
    throw new UsageError(`${name} is "${option}"; it is a number of seconds, at most ${longestSeconds}`);
  return seconds;
}

function listenOf({ listen, tokenFile }: Options): NonNullable<DaemonOptions['listen']> | null {
  if (listen === undefined) {
    if (tokenFile !== undefined) throw new UsageError('--token-file belongs to --listen');
    return null;
  }
  if (tokenFile === undefined)
    throw new UsageError('--listen needs --token-file: who has no token may not ask');
  const [, bracketed, plain, port] = /^(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(listen) ?? [];
  const host = bracketed ?? plain;
  const isHost = bracketed === undefined ? host !== undefined : isIP(bracketed) === 6;
  if (!isHost || Number(port) > 65_535)
    throw new UsageError(
      `--listen is "${listen}"; give an address and a port, such as 127.0.0.1:7100 or [::1]:7100`,
    );
  return { host: host!, port: Number(port), token: readToken(tokenFile) };
}
