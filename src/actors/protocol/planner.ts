import { z } from 'zod';
import { type MessageIn, notice, request } from './table.ts';
import {
  arrivedDigests,
  binary,
  bytes,
  copy,
  fabricRank,
  loadable,
  loadOrder,
  longs,
  merged,
  name,
  nothing,
  ownSegment,
  plan,
  planned,
  rank,
  segment,
} from './values.ts';

export const toPlanner = {
  planLoading: request(
    'plan-loading',
    {
      checkpoint: name,
      source: z.discriminatedUnion('kind', loadable),
      segmentName: z.string(),
      ranks: z.array(z.object({ rank, host: z.string(), directory: z.string() })),
      /** Sets of segments that may be used again. */
      spare: z.array(z.array(ownSegment)),
    },
    z.object({
      orders: z.array(loadOrder),
      /** Index of the spare set that is used. */
      reused: z.int().nullable(),
      /** What the orders have ranks make, or write over; empty if it was written before. */
      segments: z.array(ownSegment),
    }),
  ),
  merge: request('merge', { parts: z.array(z.object({ manifest: binary, digests: longs })) }, merged),
  /** A manifest that is whole already. */
  adopt: request('adopt', { manifest: binary }, merged),
  plan: request(
    'plan',
    {
      layout: z.string(),
      /** Ranks that are joined by one communicator. */
      ranks: z.array(z.object({ ...fabricRank.shape, freeBytes: bytes })),
      /** All ranks that can be read from, and what some have received earlier. */
      sources: z.array(fabricRank),
      copies: z.array(copy),
      /** Of what was registered, what is not there any more. */
      lost: z.array(segment),
      /** Of what the ranks are to receive. */
      mirrorName: z.string(),
      memoryFraction: z.number(),
      bucketBytes: bytes,
    },
    planned,
  ),
  verify: request(
    'verify',
    {
      layout: z.string(),
      instance: name,
      /** Each with the plan by which the rank announced tensors to its worker. */
      reports: z.array(z.object({ rank, plan, arrivedDigests })),
    },
    nothing,
  ),
  forgetLayout: notice('forget-layout', { layout: z.string() }),
};

export type PlannerMessage = MessageIn<typeof toPlanner>;
