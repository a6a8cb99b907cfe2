import * as z from 'zod';
import { binary, bytes, cuts, doubles, rank, words } from './values.ts';

/** Plans as messages carry them. */

/** `Plan` of plan/buckets.ts. */
export const plan = z.object({
  digest: z.string(),
  layout: z.string(),
  mode: z.enum(['pipelined', 'serial']),
  slots: z.int(),
  slotBytes: bytes,
  largeSlotBytes: bytes,
  ranks: words,
  owners: words,
  tensorStarts: words,
  tensorOrder: words,
  tensorOffsets: doubles,
  bucketBytes: doubles,
  cuts: cuts.nullable(),
});

/** Lists of `FusedModules` of plan/fused-tensors.ts. */
export const fusedModules = z.array(z.array(z.string()));

/** `FabricRank` of plan/reception.ts. */
export const fabricRank = z.object({
  rank,
  host: z.string(),
  directory: z.string(),
  nics: z.array(z.string()),
});

/** `Copy` of plan/reception.ts. */
export const copy = z.object({ slice: z.int().nonnegative(), path: z.string(), host: z.string(), rank });

export const planned = z.object({
  plan,
  /** `arrivalDigest` of the checkpoint. */
  expected: z.string(),
  /** Paths of the manifest's segments, as `packPaths` packs them: those of files change when they are written again. */
  segments: binary,
  /** The checkpoint with the group's mirrors as segments; null if the group has no mirrors. */
  manifest: binary.nullable(),
  /** What the group reads from other hosts; null if nothing. */
  reception: z
    .object({
      sliceBytes: doubles,
      mirrors: z.array(z.object({ slice: z.int().nonnegative(), receiver: rank, path: z.string(), bytes })),
      served: z.array(
        z.object({
          rank,
          host: z.string(),
          slices: z.array(z.object({ slice: z.int().nonnegative(), path: z.string(), offset: bytes })),
        }),
      ),
    })
    .nullable(),
});
export type Planned = z.infer<typeof planned>;

/** `UpdateRates` of plan/parts-choice.ts. */
export const updateRates = z.object({
  upload: z.number().nullable(),
  broadcast: z.number().nullable(),
  tensor: z.number().nullable(),
});

/** `WholeAlternative` of plan/parts-choice.ts. */
export const wholeAlternative = z.object({ sharing: z.int().positive(), rates: updateRates });
/** Of what ranks have announced the planner does not know this: to be asked again once it does. */
const lacking = z.object({
  outcome: z.literal('lacking'),
  lacking: z.array(z.object({ rank, digest: z.string() })),
});
export type Lacking = z.infer<typeof lacking>;

export const readAnswer = z.discriminatedUnion('outcome', [
  /** Null if what workers have read of each tensor is all of it, or nothing. */
  z.object({ outcome: z.literal('known'), gap: z.string().nullable() }),
  lacking,
]);
export type ReadAnswer = z.infer<typeof readAnswer>;

/**
 * Of whole tensors a rank announces to its engine worker only those of which this keeps something, by what it has said under the
 * digest `kept`, and the rows `also`, of which no worker of the instance does: so that each arrives at one of them.
 */
export const sparing = z.object({
  kept: z.string(),
  also: words,
  /** `arrivalDigest` of these, in the order of the manifest's rows. */
  expected: z.string(),
});
export type Sparing = z.infer<typeof sparing>;

export const partsPlanned = z.discriminatedUnion('outcome', [
  /** A plan for each rank, in their order. */
  z.object({ outcome: z.literal('parts'), planned: z.array(planned) }),
  /** Why it has to be whole tensors. `sparing`: one for each rank, in their order; null where all are announced. */
  z.object({ outcome: z.literal('whole'), why: z.string(), sparing: z.array(sparing).nullable() }),
  lacking,
]);
export type PartsPlanned = z.infer<typeof partsPlanned>;
