import * as z from 'zod';
import { checkpointStatus } from './checkpoint-values.ts';
import { bytes, name, rank } from './values.ts';

/** Status and progress of a cluster. */

export const progress = z.object({
  activity: z.enum(['load', 'receive', 'update']),
  rank,
  doneBytes: bytes,
  totalBytes: bytes,
});
export type Progress = z.infer<typeof progress>;

/** What is known of an engine. */
export const instanceState = z.object({
  /**
   * `verifying`: its weights are whole, and its answers are being compared. `broken`: it holds parts of several versions,
   * or weights that are not right, until an update succeeds.
   */
  state: z.enum(['unknown', 'updating', 'verifying', 'serving', 'broken']),
  /** An update has paused it, and has not resumed it: because it is broken, or did not resume. */
  isPaused: z.boolean(),
  /** The version whose every bucket all its workers acknowledged in one epoch; null when unknown or broken. */
  version: z.object({ checkpoint: name, digest: z.string() }).nullable(),
  /** Why it is broken, paused or unknown; null if it is none of these, or nobody knows. */
  problem: z.string().nullable(),
  /**
   * Why its draft model has other weights than its target, which decides how fast it answers; null if it has not, or nobody
   * knows.
   */
  draftKept: z.string().nullable(),
});

export const instanceStatus = z.object({
  name,
  endpoint: z.string(),
  ranks: z.array(rank),
  ...instanceState.shape,
});
export type InstanceStatus = z.infer<typeof instanceStatus>;

export const status = z.object({
  epoch: z.int().nonnegative(),
  ranks: z.array(
    z.object({
      rank,
      state: z.enum(['starting', 'ready', 'down']),
      deviceUuid: z.string().nullable(),
      host: z.string().nullable(),
      pid: z.int().nullable(),
    }),
  ),
  instances: z.array(instanceStatus),
  checkpoints: z.array(checkpointStatus),
  /** Host memory of released checkpoints that is kept for later ones. */
  spareBytes: bytes,
});
export type ClusterStatus = z.infer<typeof status>;
