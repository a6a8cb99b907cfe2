import { z } from 'zod';
import { allPauseModes, engineKinds, linkKinds } from '../../engines/engine-client.ts';
import type { EngineOptions } from '../../engines/engine-options.ts';

/** One inference server and the ranks that sit on its devices. */
export interface InstanceOptions extends EngineOptions {
  readonly name: string;
  /** Numbers of its ranks in the cluster, in the order of the engine's workers. */
  readonly ranks: readonly number[];
  /** Where its ranks run: one of `ClusterOptions.hosts`. Default: this host. */
  readonly host?: string;
}

/** As it comes from another process. */
export const instanceOptions = z.object({
  name: z.string().min(1).max(256),
  ranks: z.array(z.int().min(0)).min(1).readonly(),
  host: z.string().exactOptional(),
  endpoint: z.string(),
  engine: z.enum(engineKinds).exactOptional(),
  link: z.enum(linkKinds).exactOptional(),
  apiKey: z.string().exactOptional(),
  pause: z.enum(allPauseModes).exactOptional(),
  resetCache: z.boolean().exactOptional(),
  hasDraftModel: z.boolean().exactOptional(),
});
