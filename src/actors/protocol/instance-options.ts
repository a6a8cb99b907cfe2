import * as z from 'zod';
import { engineKinds, linkKinds, pauseOptions } from '../../engines/engine-client.ts';
import type { EngineOptions } from '../../engines/engine-options.ts';
import { name } from './values.ts';

/** One inference server and the ranks on its devices. */
export interface InstanceOptions extends EngineOptions {
  readonly name: string;
  /** Its ranks' numbers in the cluster, in the order of the engine's workers. */
  readonly ranks: readonly number[];
  /** Host of its ranks: one of `ClusterOptions.hosts`. Default: this host. */
  readonly host?: string;
  /** Index of each worker's device on that host, in the order of `ranks`. Default: what `ClusterOptions.devices` says. */
  readonly devices?: readonly number[];
}

/** The same as messages carry it. */
export const instanceOptions = z.strictObject({
  name,
  ranks: z.array(z.int().min(0)).min(1).readonly(),
  host: z.string().exactOptional(),
  devices: z.array(z.int().min(0)).readonly().exactOptional(),
  endpoint: z.string(),
  engine: z.enum(engineKinds).exactOptional(),
  link: z.enum(linkKinds).exactOptional(),
  apiKey: z.string().exactOptional(),
  pause: z.enum(pauseOptions).exactOptional(),
  resetCache: z.boolean().exactOptional(),
  hasDraftModel: z.boolean().exactOptional(),
});
