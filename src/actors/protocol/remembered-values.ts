import * as z from 'zod';
import { checkpointStatus, foreignSource, heldSegment, ownSegment, segment } from './checkpoint-values.ts';
import { copy } from './plan-values.ts';
import { instanceState } from './status-values.ts';
import { liveDigests, updateRequest } from './update-values.ts';
import { binary, name, rank } from './values.ts';

/** What a supervisor leaves to the one that takes its place, as documents in memory that outlives its process. */

/** A registered checkpoint. */
export const rememberedCheckpoint = z.object({
  registered: z.object({
    status: checkpointStatus,
    layout: z.string(),
    manifest: binary,
    segments: z.array(heldSegment),
    lost: z.array(segment),
    copies: z.array(copy),
    foreign: z.object({ secret: z.string(), sources: z.array(foreignSource) }).nullable(),
  }),
  /** The segments created for it. */
  created: z.array(ownSegment),
  isReusable: z.boolean(),
  isExported: z.boolean(),
});
export type RememberedCheckpoint = z.infer<typeof rememberedCheckpoint>;

const held = z.object({ state: instanceState.shape.state, version: instanceState.shape.version });

/** An instance, and what its engine holds. */
export const rememberedInstance = z.object({
  name,
  held,
  isPaused: z.boolean(),
  /** It may still pause, for so long. */
  pauseDue: z.object({ milliseconds: z.number().positive() }).nullable(),
  problem: z.string().nullable(),
  draftKept: z.string().nullable(),
  /** The update that changes it now: the first of its epochs that may have, and what the engine held before. */
  touched: z.object({ epoch: z.int().nonnegative(), before: held }).nullable(),
  /** It has left the cluster. */
  isRemoved: z.boolean(),
});
export type RememberedInstance = z.infer<typeof rememberedInstance>;

/** An instance that is to be updated when its ranks and its engine are back. */
export const rememberedHealing = z.object({
  name,
  goal: z.object({ checkpoint: name, digest: z.string(), options: updateRequest }),
});
export type RememberedHealing = z.infer<typeof rememberedHealing>;

/** What engine workers held after updates. */
export const rememberedInstalls = z.object({
  /** Names of live tensors by their layout, in one string, between line feeds. */
  layouts: z.record(z.string(), z.string()),
  held: z.array(
    z.object({
      version: z.string(),
      isConfirmed: z.boolean(),
      ...liveDigests.omit({ names: true, coverage: true }).shape,
    }),
  ),
});
export type RememberedInstalls = z.infer<typeof rememberedInstalls>;

export const remembered = {
  instances: z.array(rememberedInstance),
  healing: z.array(rememberedHealing),
  installs: rememberedInstalls,
  /** The last epoch that was begun. */
  epoch: z.int().nonnegative(),
  /** By host, the identity of its segments' directory. */
  directories: z.record(z.string(), z.string()),
  /** Sets of segments that are kept for later checkpoints; the one that became spare first comes first. */
  spare: z.array(z.array(ownSegment)),
  positions: z.array(z.object({ rank, host: z.string(), position: z.int().nonnegative() })),
};
export type Remembered = { readonly [K in keyof typeof remembered]: z.infer<(typeof remembered)[K]> };
