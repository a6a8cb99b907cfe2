import * as z from 'zod';
import { name as text } from '../actors/protocol/values.ts';
import { deviceUuid } from '../cluster/workers.ts';
import { engineKinds, linkKinds, pauseOptions } from '../engines/engine-client.ts';

/** What the daemon is asked about an instance (schemas.ts has the rest). */

export const name = text
  .describe('Without control characters.')
  // In a path clients take these for something else.
  .refine((given) => given !== '.' && given !== '..', 'it is a directory, not a name');
export const rank = z.int().min(0).max(1_000_000);

const ranks = z.array(rank).min(1).max(1_024);
const host = z.string().min(1).max(256);
const devices = z
  .array(
    z.union([
      z.int().min(0).max(1_000),
      z.string().regex(deviceUuid).describe('UUID of a GPU: `GPU-…`, `MIG-…`.'),
    ]),
  )
  .min(1)
  .max(1_024);

const workers = z.strictObject({
  host: host.optional().describe("A host of the daemon's configuration. Default: this one."),
  devices: devices.optional().describe('Of each worker on that host. Default: as of an instance.'),
  ranks: ranks.optional().describe('Default: one for each of `devices`, the lowest that are free.'),
});

export const instanceBody = z.strictObject({
  name,
  endpoint: z
    .string()
    .min(1)
    .max(2_048)
    .describe('`http://host:port`, with the prefix of a proxy, or `unix:/path`; on the list of engines.'),
  workers: z
    .array(workers)
    .min(1)
    .max(1_024)
    .optional()
    .describe(
      'The workers of an engine that spans hosts, host by host in the order in which the engine numbers them; in place of `ranks`, `host` and `devices`.',
    ),
  ranks: ranks
    .optional()
    .describe(
      "Ranks of the engine's workers, in their order; rank n is on device n. Default: one for each of `devices`, the lowest that are free.",
    ),
  worker_count: z
    .int()
    .min(1)
    .max(1_024)
    .optional()
    .describe(
      'In place of `ranks`, from version 2 of the API on: so many ranks, the lowest numbers in a row that no instance has, nor one that is being added.',
    ),
  host: host.optional().describe("A host of the daemon's configuration. Default: this one."),
  devices: devices
    .optional()
    .describe(
      "Each worker's device on its host: an index or a UUID. Default: here those of the ranks' numbers, on another host 0, 1, …",
    ),
  engine: z.enum(engineKinds).optional(),
  link: z
    .enum(linkKinds)
    .optional()
    .describe(
      "Protocol of the engine's workers. Default: weightcast; an LMDeploy has checkpoint-engine only.",
    ),
  api_key: z
    .string()
    .min(1)
    .max(4_096)
    .optional()
    .describe('Sent to the engine as a bearer token; in no answer.'),
  pause: z
    .enum(pauseOptions)
    .optional()
    .describe('How to pause the engine during updates. Default: not at all.'),
  reset_cache: z.boolean().optional(),
  has_draft_model: z.boolean().optional(),
});
