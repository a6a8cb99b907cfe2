import { z } from 'zod';
import { instanceOptions } from '../actors/protocol/instance-options.ts';
import { linkKinds } from '../engines/engine-client.ts';
import { UsageError } from '../errors.ts';
import { deviceOptions } from './devices.ts';

/** What a parent tells the processes it starts, as one line of JSON on their standard input. */

const keyPair = z.object({ publicKey: z.string(), secretKey: z.string() });
const publicKey = z.object({ publicKey: z.string() });

/** A host beside the one that the cluster is started on. */
export interface HostOptions {
  /**
   * Words put before the command that starts a rank process there, such as `['ssh', 'node-2']`, or `['ip', 'netns', 'exec', 'b']`. weightcast and Node.js lie there where they lie here,
   * and the launcher passes standard input on. Empty: a host in name only, on this machine.
   */
  readonly launcher: readonly string[];
  /** Numeric addresses by which ranks of other hosts find those of this one. Default: those of its interfaces. */
  readonly fabricAddresses?: readonly string[];
}

const hostOptions = z.object({
  launcher: z.array(z.string()).readonly(),
  fabricAddresses: z.array(z.string()).readonly().exactOptional(),
});

const host = z.object({
  /** Ranks of one host share their segments. */
  name: z.string(),
  /** Where the cluster's segments lie: a directory in /dev/shm that ends with the last process that uses it. */
  directory: z.string(),
  fabricAddresses: z.array(z.string()).readonly(),
  devices: deviceOptions,
  /** Native threads of each rank process. */
  threads: z.int().min(1),
});

export const rankConfiguration = z.object({
  rank: z.int().min(0),
  node: z.string(),
  endpoint: z.string(),
  hubNode: z.string(),
  keys: z.object({ hub: publicKey, spoke: keyPair }),
  host,
  /** Where the rank stands among those of its instance, and how many they are. */
  localRank: z.int().min(0),
  localRanks: z.int().min(1),
  /** Known to the ranks of a cluster, hexadecimal: who knows it may read their segments. */
  fabricSecret: z.string(),
  /** What the engine worker on this rank's device speaks. */
  link: z.enum(linkKinds),
});
export type RankConfiguration = z.infer<typeof rankConfiguration>;

export const supervisorConfiguration = z.object({
  endpoint: z.string(),
  node: z.string(),
  keys: z.object({ hub: keyPair, spoke: keyPair }),
  /** Where ranks of other hosts reach the supervisor. */
  remoteEndpoint: z.string().exactOptional(),
  instances: z.array(instanceOptions),
  spareCheckpoints: z.int().min(0),
  host,
  /** Other hosts by name. */
  hosts: z.record(z.string(), hostOptions),
  fabricSecret: z.string(),
});
export type SupervisorConfiguration = z.infer<typeof supervisorConfiguration>;

export function parseConfiguration<T>(schema: z.ZodType<T>, value: unknown): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new UsageError(
    `the configuration of this process is wrong: ${issue?.path.join('.')}: ${issue?.message}`,
  );
}
