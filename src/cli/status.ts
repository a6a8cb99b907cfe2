import { setTimeout } from 'node:timers/promises';
import { Command } from 'commander';
import type * as z from 'zod';
import type { DaemonClient } from '../daemon/client.ts';
import type { statusAnswer } from '../daemon/schemas.ts';
import { toWireNames } from '../daemon/wire-names.ts';
import { draftText } from '../observe/summary.ts';
import { formatBytes } from '../units.ts';
import { type DaemonArguments, withDaemon, withDaemonOptions } from './daemon-arguments.ts';
import { runCommand } from './interrupt.ts';

interface Options extends DaemonArguments {
  readonly watch?: true;
  readonly json?: true;
}

type Status = z.infer<typeof statusAnswer>;

const watchMilliseconds = 1_000;

export function statusCommand(): Command {
  return withDaemonOptions(
    new Command('status').description(
      'Show what a daemon keeps: instances and what they serve, checkpoints, updates.',
    ),
  )
    .option('--watch', 'show it again each second, until Ctrl-C')
    .option('--json', 'print it as JSON')
    .action((options: Options) =>
      runCommand((signal) =>
        withDaemon(options, signal, (client) => show(client, options, signal)).catch((error) => {
          // Ctrl-C is how it ends.
          if (!options.watch || !signal.aborted) throw error;
        }),
      ),
    );
}

async function show(client: DaemonClient, { watch, json }: Options, signal: AbortSignal): Promise<void> {
  let isClosed = false;
  process.stdout.once('error', () => {
    isClosed = true;
  });
  for (;;) {
    const status = toWireNames(await client.call('GET', '/v1/status')) as Status;
    const text = json ? JSON.stringify(status, null, watch ? 0 : 2) : linesOf(status).join('\n');
    const isDrawn = watch && !json && process.stdout.isTTY;
    process.stdout.write(`${isDrawn ? '\x1b[H\x1b[J' : ''}${text}\n`);
    if (!watch) return;
    await setTimeout(watchMilliseconds, undefined, { signal });
    // Who reads it has read enough, as `head` does.
    if (isClosed) return;
  }
}

function linesOf(status: Status): string[] {
  const { daemon, ready, reasons, instances, checkpoints, updates, ranks } = status;
  const hostOf = new Map(ranks.flatMap(({ rank, host }) => (host === null ? [] : [[rank, host]])));
  const rows: [string, string][] = [
    [
      'daemon',
      `${daemon.state}, weightcast ${daemon.version}, pid ${daemon.pid}, since ${daemon.started_at}`,
    ],
    ['ready', ready ? 'yes' : `no: ${reasons.join('; ')}`],
    ...instances.map((one): [string, string] => ['instance', instanceText(one, hostOf)]),
    ...checkpoints.map((one): [string, string] => ['checkpoint', checkpointText(one)]),
    ...updates.map((one): [string, string] => ['update', updateText(one)]),
  ];
  const width = Math.max(...rows.map(([label]) => label.length));
  return rows.map(([label, value]) => `${label.padEnd(width)}  ${value}`);
}

function instanceText(
  { name, state, version, is_paused, endpoint, ranks, problem, draft_kept }: Status['instances'][number],
  hostOf: ReadonlyMap<number, string>,
) {
  const what = version === null ? state : `${state} ${version.checkpoint}@${version.digest}`;
  const hosts = new Map<string, number[]>();
  for (const rank of ranks) {
    const host = hostOf.get(rank) ?? '?';
    hosts.set(host, [...(hosts.get(host) ?? []), rank]);
  }
  const placed = [...hosts].map(([host, own]) => `${own.join(' ')} on ${host}`);
  const numbers = hosts.size > 1 ? placed.join(', ') : ranks.join(' ');
  const where = `${endpoint}, ${ranks.length === 1 ? 'rank' : 'ranks'} ${numbers}`;
  const draft = draft_kept && draftText(draft_kept);
  return [name, `${what}${is_paused ? ', paused' : ''}`, where, problem, draft]
    .filter((part) => part)
    .join('; ');
}

function checkpointText({
  name,
  state,
  digest,
  tensors,
  bytes,
  problem,
}: Status['checkpoints'][number]): string {
  const waits = state === 'waiting' ? 'waits for the first instance' : state;
  const id = digest === null ? name : `${name}@${digest}`;
  return [id, waits, `${tensors} tensors`, formatBytes(bytes), problem].filter((part) => part).join('; ');
}

function updateText({ id, checkpoint, instances, seconds, progress }: Status['updates'][number]): string {
  const done =
    progress === null ? 0 : Math.floor((100 * progress.done_bytes) / Math.max(progress.total_bytes, 1));
  return `${id}; ${checkpoint} in ${instances.join(', ')}; ${progress?.activity ?? 'begins'} ${done} %, ${seconds.toFixed(1)} s`;
}
