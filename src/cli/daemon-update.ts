import { basename, resolve } from 'node:path';
import type { Progress } from '../actors/protocol/status-values.ts';
import type { UpdateOptions } from '../cluster/cluster.ts';
import type { DaemonClient } from '../daemon/client.ts';
import {
  AbortedError,
  CheckpointError,
  describe,
  fromWire,
  PeerLostError,
  UsageError,
  type WireError,
} from '../errors.ts';
import type { Summary } from '../observe/summary.ts';
import { type DaemonArguments, withDaemon } from './daemon-arguments.ts';
import { interruptible } from './interrupt.ts';
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
  { timeoutMilliseconds, stepTimeoutMilliseconds, connectTimeoutMilliseconds, ...rest }: UpdateOptions,
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
    ...rest,
    ...(timeoutMilliseconds !== undefined && { timeoutSeconds: timeoutMilliseconds / 1_000 }),
    ...(stepTimeoutMilliseconds !== undefined && { stepTimeoutSeconds: stepTimeoutMilliseconds / 1_000 }),
    ...(connectTimeoutMilliseconds !== undefined && {
      connectTimeoutSeconds: connectTimeoutMilliseconds / 1_000,
    }),
  };
  await withDaemon(options, async (client) => {
    if (path !== null)
      await interruptible(
        client.call('POST', '/v1/checkpoints', { name: checkpoint, path, temporary: true }).catch((error) => {
          // What is registered already has a name, and is easily taken for a path.
          const isWord = error instanceof CheckpointError && !options.checkpoint!.includes('/');
          throw isWord
            ? new CheckpointError(`${describe(error)}; for a checkpoint that the daemon has, give --name`)
            : error;
        }),
        signal,
      );
    const { id } = (await client.call('POST', '/v1/updates', body)) as Job;
    const report = await interruptible(followed(client, id), signal).catch((error) => {
      if (!signal.aborted) throw error;
      throw new AbortedError(`${describe(error)}; update ${id} goes on in the daemon (weightcast status)`);
    });
    const reporter = new Reporter();
    reporter.table(report);
    writeResult(options.json, report);
  });
}

/** Shows the progress of an update. Resolves with its report; rejects with its error. */
async function followed(client: DaemonClient, id: string): Promise<Summary> {
  const reporter = new Reporter();
  try {
    for await (const event of client.events(id)) {
      // The daemon has summed up the ranks.
      if (event.type === 'progress') reporter.progress({ ...event, rank: 0 } as unknown as Progress);
    }
  } finally {
    reporter.end();
  }
  const { report, error } = (await client.call('GET', `/v1/updates/${encodeURIComponent(id)}`)) as Job;
  if (error !== null) throw fromWire(error);
  if (report === null) throw new PeerLostError(`the daemon has ended before update ${id}`);
  return report;
}
