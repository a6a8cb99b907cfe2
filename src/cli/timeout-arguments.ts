import type { Command } from 'commander';
import type { UpdateOptions } from '../cluster/cluster.ts';
import { parseSeconds } from '../units.ts';

/** How long an update, and what it waits for, may take. */
export interface TimeoutArguments {
  readonly timeout: string;
  readonly stepTimeout?: string;
  readonly connectTimeout?: string;
  readonly readyTimeout?: string;
  readonly resumeTimeout?: string;
}

export function withTimeoutOptions(command: Command): Command {
  return command
    .option('--timeout <seconds>', 'time limit of the update', '600')
    .option(
      '--step-timeout <seconds>',
      'time limit of one answer of an engine worker, which copies a bucket or processes the weights, and of a pause other than wait (default: 120, and one more per GB)',
    )
    .option(
      '--connect-timeout <seconds>',
      'when one engine worker has connected to its rank, time limit of the others (default: 60)',
    )
    .option(
      '--ready-timeout <seconds>',
      'how long an engine that is down, or starts, is waited for (default: 120, or a fifth of --timeout if that is longer)',
    )
    .option(
      '--resume-timeout <seconds>',
      'how long an engine that is to resume is waited for (default: what is left of --timeout, at least 5; 0.75 if it was not updated)',
    );
}

/** Throws `UsageError`. */
export function timeoutsOf(options: TimeoutArguments): UpdateOptions {
  const { timeout, stepTimeout, connectTimeout, readyTimeout, resumeTimeout } = options;
  return {
    timeoutMilliseconds: parseSeconds(timeout, '--timeout'),
    ...(stepTimeout !== undefined && {
      stepTimeoutMilliseconds: parseSeconds(stepTimeout, '--step-timeout'),
    }),
    ...(connectTimeout !== undefined && {
      connectTimeoutMilliseconds: parseSeconds(connectTimeout, '--connect-timeout'),
    }),
    ...(readyTimeout !== undefined && {
      readyTimeoutMilliseconds: parseSeconds(readyTimeout, '--ready-timeout'),
    }),
    ...(resumeTimeout !== undefined && {
      resumeTimeoutMilliseconds: parseSeconds(resumeTimeout, '--resume-timeout'),
    }),
  };
}
