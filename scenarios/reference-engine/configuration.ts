import { z } from 'zod';

/** Ways to fail on purpose, for tests of the whole system. Buckets count from 0 in each update. */
const faults = z.object({
  /** Refuses this tensor. */
  failLoadOfTensor: z.string().optional(),
  /** Dies when this bucket arrives. */
  exitAtBucket: z.int().min(0).optional(),
  /** Leaves this bucket alone for some seconds, then refuses it. */
  hangAtBucket: z.int().min(0).optional(),
  /** The worker that fails; all if not given. */
  rank: z.int().min(0).optional(),
  /** Fails in the first update only. */
  once: z.boolean().optional(),
});
export type Faults = z.infer<typeof faults>;

/** What the server's process is told. */
export const engineConfiguration = z.object({
  /** Of the served model. */
  name: z.string().min(1),
  /** Checkpoint whose tensor names and shapes the model has; its weights are not read. */
  model: z.string().min(1),
  ranks: z.int().min(1).max(1024),
  deviceNamespace: z.string(),
  /** Index of the first worker's device; the others follow. */
  firstDevice: z.int().min(0),
  /** Bytes of each device. */
  deviceCapacity: z.int().min(0),
  host: z.string(),
  port: z.int().min(0).max(65_535),
  /** Whether a draft model takes every update too, in an exchange of its own: here one with the same layers. */
  hasDraftModel: z.boolean(),
  faults,
});
export type EngineConfiguration = z.infer<typeof engineConfiguration>;

/** What a worker's process is told. */
export const workerConfiguration = engineConfiguration
  .pick({
    model: true,
    ranks: true,
    deviceNamespace: true,
    firstDevice: true,
    deviceCapacity: true,
    hasDraftModel: true,
    faults: true,
  })
  .extend({ rank: z.int().min(0) });
export type WorkerConfiguration = z.infer<typeof workerConfiguration>;
