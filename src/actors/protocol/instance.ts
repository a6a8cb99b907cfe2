import * as z from 'zod';
import { engineKinds, linkKinds, pauseOptions } from '../../engines/engine-client.ts';
import { name, rank } from './values.ts';

/** The rank beside one engine worker, and where the two are. */
export const worker = z.strictObject({
  rank,
  /** Default: the host that the cluster was started on. */
  host: z.string().exactOptional(),
  /** Its device there: an index, or a GPU's UUID. Default: what the options of the host say. */
  device: z.union([z.int().min(0), z.string()]).exactOptional(),
});
export type Worker = Readonly<z.infer<typeof worker>>;

/** One inference server, as `InstanceOptions` with its ranks numbered: each rank has its own host and device. */
export const instance = z.strictObject({
  name,
  /** In the order in which the engine numbers them. */
  workers: z.array(worker).min(1).readonly(),
  endpoint: z.string(),
  engine: z.enum(engineKinds).exactOptional(),
  link: z.enum(linkKinds).exactOptional(),
  apiKey: z.string().exactOptional(),
  pause: z.enum(pauseOptions).exactOptional(),
  resetCache: z.boolean().exactOptional(),
  hasDraftModel: z.boolean().exactOptional(),
});
export type Instance = Readonly<z.infer<typeof instance>>;

export function ranksOf({ workers }: Pick<Instance, 'workers'>): number[] {
  return workers.map(({ rank }) => rank);
}
