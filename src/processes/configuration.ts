import { z } from 'zod';
import { instanceOptions } from '../actors/instance-options.ts';
import { linkKinds } from '../engines/engine-client.ts';
import { UsageError } from '../errors.ts';
import { deviceOptions } from './devices.ts';

/** What a parent tells the processes it starts, as one line of JSON on their standard input. */

const keyPair = z.object({ publicKey: z.string(), secretKey: z.string() });
const publicKey = z.object({ publicKey: z.string() });

const host = z.object({
  /** Where the cluster's segments lie: a directory in /dev/shm that ends with the last process that uses it. */
  directory: z.string(),
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
  /** What the engine worker on this rank's device speaks. */
  link: z.enum(linkKinds),
});
export type RankConfiguration = z.infer<typeof rankConfiguration>;

export const supervisorConfiguration = z.object({
  endpoint: z.string(),
  node: z.string(),
  keys: z.object({ hub: keyPair, spoke: keyPair }),
  instances: z.array(instanceOptions),
  host,
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
