import * as z from 'zod';
import { address, binary, bytes, doubles, rank } from './values.ts';

/** Reads from other hosts, as messages carry them. */

/** A slice that a rank holds or receives: its offset in bytes in the segment that `token` names. */
const exposedSlice = z.object({ slice: z.int().nonnegative(), token: binary, offset: bytes });

/** A rank to read from, at its `Fabric.address`. `secret`: of the other cluster that it belongs to, else null. */
export const fabricSource = z.object({
  rank,
  address: binary,
  secret: z.string().nullable(),
  slices: z.array(exposedSlice),
});
export type FabricSource = z.infer<typeof fabricSource>;

/** What a rank has to receive from other hosts. Slices and pieces are those of plan/. */
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
  /** Details of those sources that the receiver has not had yet. */
  sources: z.array(fabricSource),
  /** All pieces have arrived. */
  isDone: z.boolean(),
});
export type NextReads = z.infer<typeof nextReads>;
