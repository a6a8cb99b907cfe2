import { basename, resolve } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import type { Progress } from '../actors/protocol/status-values.ts';
import type { UpdateOptions } from '../cluster/cluster.ts';
import type { DaemonClient } from '../daemon/client.ts';
import { withSeconds } from '../daemon/wire-names.ts';
import {
  AbortedError,
  CheckpointError,
  describe,
  fromWire,
  OverloadedError,
  UsageError,
  type WireError,
} from '../errors.ts';
import type { Summary } from '../observe/summary.ts';
import { type DaemonArguments, withDaemon } from './daemon-arguments.ts';
import { Reporter } from './reporter.ts';
import { writeResult } from './result-file.ts';

export interface DaemonUpdate extends DaemonArguments {
  /** Registered first, if it is given. */
  readonly checkpoint?: string;
  readonly name?: string;
  readonly instance?: readonly string[];
  readonly json?: string;
}

interface Job {
  readonly id: string;
  readonly state: 'running' | 'succeeded' | 'failed';
  readonly report: Summary | null;
  readonly error: WireError | null;
}

/** `weightcast update` by a daemon. Ctrl-C ends the command; the update goes on. */
export async function updateByDaemon(
  options: DaemonUpdate,
  updateOptions: UpdateOptions,
  signal: AbortSignal,
): Promise<void> {
  const path = options.checkpoint === undefined ? null : resolve(options.checkpoint);
  const checkpoint = options.name ?? (path === null ? undefined : basename(path));
  if (checkpoint === undefined)
    throw new UsageError(
      'give --name, of a checkpoint that the daemon has, or --checkpoint, to register it first',
    );
  const body = {
    checkpoint,
    wait: false,
    instances: options.instance,
    ...withSeconds(updateOptions),
  };
  let running: string | null = null;
  const report = await withDaemon(options, signal, async (client) => {
    if (path !== null)
      await client
        .call('POST', '/v1/checkpoints', { name: checkpoint, path, temporary: true })
        .catch((error) => {
          // What is registered already has a name, and is easily taken for a path.
          const isWord = error instanceof CheckpointError && !options.checkpoint!.includes('/');
          throw isWord
            ? new CheckpointError(`${describe(error)}; for a checkpoint that the daemon has, give --name`)
            : error;
        });
    const { id } = (await client.call('POST', '/v1/updates', body)) as Job;
    running = id;
    return followed(client, id);
  }).catch((error) => {
    if (!signal.aborted || running === null) throw error;
    throw new AbortedError(`${describe(error)}; update ${running} goes on in the daemon (weightcast status)`);
  });
  new Reporter().table(report);
  writeResult(options.json, report);
}

/** Between two looks where events cannot be had. */
const lookMilliseconds = 500;

/** An update that has ended. `onEvent` is told of what comes before, unless the daemon has too many listeners. */
async function ended(
  client: DaemonClient,
  id: string,
  onEvent: (event: Readonly<Record<string, unknown>>) => void,
): Promise<Job> {
  for (;;) {
    try {
      for await (const event of client.events(id)) onEvent(event);
    } catch (error) {
      if (!(error instanceof OverloadedError)) throw error;
    }
    const job = (await client.call('GET', `/v1/updates/${encodeURIComponent(id)}`)) as Job;
    if (job.state !== 'running') return job;
    await setTimeout(lookMilliseconds);
  }
}

/** Shows the progress of an update. Resolves with its report; rejects with its error. */
async function followed(client: DaemonClient, id: string): Promise<Summary> {
  const reporter = new Reporter();
  const { report, error } = await ended(client, id, (event) => {
    // The daemon has summed up the ranks.
    if (event.type === 'progress') reporter.progress({ ...event, rank: 0 } as unknown as Progress);
  }).finally(() => reporter.end());
  if (error !== null) throw fromWire(error);
  return report!;
}
