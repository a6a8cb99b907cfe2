import * as z from 'zod';

/** Injected failures for tests of the whole system. Buckets are counted from 0 in each update. */
const faults = z.object({
  /** The worker rejects this tensor. */
  failLoadOfTensor: z.string().optional(),
  /** The worker kills itself when this bucket arrives. */
  exitAtBucket: z.int().min(0).optional(),
  /** The worker leaves this bucket unanswered for some seconds, and then rejects it. */
  hangAtBucket: z.int().min(0).optional(),
  /** The worker's model makes something else of this tensor than what arrived. */
  misloadsTensor: z.string().optional(),
  /** Of this tensor another byte arrives than was sent, where only a part of it was. */
  damagesPartOf: z.string().optional(),
  /** The worker that fails. Default: all. */
  rank: z.int().min(0).optional(),
  /** Whether only the first update fails. */
  once: z.boolean().optional(),
});
export type Faults = z.infer<typeof faults>;

/** Where a worker runs, and its host device there. */
const place = z.object({
  launcher: z.array(z.string()).readonly(),
  namespace: z.string(),
  device: z.int().min(0),
});
export type WorkerPlace = z.infer<typeof place>;

/** Configuration of the server's process. */
export const engineConfiguration = z.object({
  /** Name of the served model. */
  name: z.string().min(1),
  /** Checkpoint that defines names and shapes of the tensors; its weights are not read. */
  model: z.string().min(1),
  /** Of its tensor-parallel workers, by rank. */
  places: z.array(place).min(1).max(1024).readonly(),
  /** Bytes of each device. */
  deviceCapacity: z.int().min(0),
  host: z.string(),
  port: z.int().min(0).max(65_535),
  /** Whether a draft model, here with the same layers, receives every update too, in its own exchange. */
  hasDraftModel: z.boolean(),
  /** Whether its workers say which part of each tensor they keep, and take only that in later updates. */
  keepsParts: z.boolean(),
  faults,
});
export type EngineConfiguration = z.infer<typeof engineConfiguration>;

/** Configuration of a worker's process. */
export const workerConfiguration = engineConfiguration
  .pick({
    model: true,
    deviceCapacity: true,
    hasDraftModel: true,
    keepsParts: true,
    faults: true,
  })
  .extend({ rank: z.int().min(0), ranks: z.int().min(1), place });
export type WorkerConfiguration = z.infer<typeof workerConfiguration>;
