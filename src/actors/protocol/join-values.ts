import { z } from 'zod';
import { address, binary, bytes, doubles, rank } from './values.ts';

/** What messages carry of reads from other hosts. */

/** A slice that a rank holds, or is receiving: where it begins in what `token` names. */
const exposedSlice = z.object({ slice: z.int().nonnegative(), token: binary, offset: bytes });

/** A rank that can be read from, at `Fabric.address`; the secret is that of another cluster, null for this one's. */
export const fabricSource = z.object({
  rank,
  address: binary,
  secret: z.string().nullable(),
  slices: z.array(exposedSlice),
});
export type FabricSource = z.infer<typeof fabricSource>;

/** What a rank receives from other hosts before it uploads it. Slices and pieces are those of plan/. */
export const receptionRequest = z.object({
  swarm: z.string(),
  ref: address,
  sliceBytes: doubles,
  mirrors: z.array(z.object({ slice: z.int().nonnegative(), path: z.string(), bytes })),
});
export type ReceptionRequest = z.infer<typeof receptionRequest>;

export const piece = z.int().nonnegative();

export const nextReads = z.object({
  reads: z.array(z.object({ piece, source: rank })),
  /** Those among the sources that the receiver has not been told of. */
  sources: z.array(fabricSource),
  /** Everything has arrived. */
  isDone: z.boolean(),
});
export type NextReads = z.infer<typeof nextReads>;
