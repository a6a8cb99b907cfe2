import * as z from 'zod';
import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import { describe, UsageError } from '../errors.ts';
import type { HostOptions } from '../processes/configuration.ts';
import { deviceOptions } from '../processes/devices.ts';
import { issueOf } from '../schema-issue.ts';
import { readText } from '../text-file.ts';
import { instanceBody } from './instance-schema.ts';
import { fromWireNames } from './wire-names.ts';

/** The file of `weightcast serve --config`: JSON, with names as in the HTTP API. */
const configuration = z.strictObject({
  instances: z.array(instanceBody).default([]),
  hosts: z
    .record(
      z.string(),
      z.strictObject({
        launcher: z.array(z.string()).optional(),
        joins: z.literal(true).optional(),
        join_file: z.string().optional(),
        environment: z.record(z.string(), z.string()).optional(),
        fabric_addresses: z.array(z.string()).optional(),
        devices: deviceOptions.optional(),
      }),
    )
    .default({}),
  /** Address at which ranks of other hosts reach the supervisor. */
  cluster_listen: z.string().optional(),
  fabric_addresses: z.array(z.string()).optional(),
  spare_checkpoints: z.int().optional(),
  /** How long ranks of instances may take to be ready, the agents of their hosts included. */
  start_timeout_seconds: z.number().positive().optional(),
  roots: z.array(z.string()).default([]),
  allow_engines: z.array(z.string()).default([]),
});

export interface DaemonConfiguration {
  readonly instances: readonly InstanceOptions[];
  readonly hosts: Readonly<Record<string, HostOptions>>;
  readonly clusterListen?: string;
  readonly fabricAddresses?: readonly string[];
  readonly spareCheckpoints?: number;
  readonly startTimeoutSeconds?: number;
  readonly roots: readonly string[];
  readonly allowEngines: readonly string[];
}

/** Throws a `UsageError` that names the file and what is wrong in it. */
export function readConfiguration(file: string): DaemonConfiguration {
  let content: unknown;
  try {
    content = JSON.parse(readText(file));
  } catch (error) {
    // A parser quotes what it could not read, which may be a key.
    const why = error instanceof SyntaxError ? 'it is not JSON' : describe(error);
    throw new UsageError(`--config ${file}: ${why}`);
  }
  const parsed = configuration.safeParse(content);
  if (!parsed.success) {
    const { path, message } = issueOf(parsed.error);
    const where = path.length === 0 ? '' : `${path.join('.')}: `;
    throw new UsageError(`--config ${file}: ${where}${message}`);
  }
  const { hosts, ...rest } = parsed.data;
  // Names of variables are nobody's options.
  const named = Object.entries(hosts).map(([name, { environment, ...host }]) => [
    name,
    { ...(fromWireNames(host) as object), ...(environment !== undefined && { environment }) },
  ]);
  return { ...(fromWireNames(rest) as object), hosts: Object.fromEntries(named) } as DaemonConfiguration;
}

/** The token in a file. Throws `UsageError` for one that is too short to be a secret, or that no header can carry. */
export function readToken(file: string): string {
  let token: string;
  try {
    token = readText(file).trim();
  } catch (error) {
    throw new UsageError(`--token-file ${file}: ${describe(error)}`);
  }
  if (!/^[\x21-\x7e]{16,}$/.test(token))
    throw new UsageError(
      `--token-file ${file}: a token has at least 16 characters of printable ASCII, and no spaces`,
    );
  return token;
}
