import * as z from 'zod';
import { workersSaid } from '../../engines/workers-said.ts';
import {
  fileSource,
  loadable,
  loadRequest,
  merged,
  openedFile,
  ownSegment,
  segment,
} from './checkpoint-values.ts';
import {
  copy,
  fabricRank,
  fusedModules,
  partsPlanned,
  plan,
  planned,
  readAnswer,
  wholeAlternative,
} from './plan-values.ts';
import { type MessageIn, notice, request } from './table.ts';
import { arrived, keptAnnouncement } from './update-values.ts';
import { binary, bytes, cuts, longs, name, rank } from './values.ts';

export const toPlanner = {
  /** Reads the headers of a checkpoint's files, and keeps them under a number until others are opened. */
  openFiles: request(
    'open-files',
    { source: fileSource },
    z.object({ number: z.int(), files: z.array(openedFile) }),
  ),
  planLoading: request(
    'plan-loading',
    {
      checkpoint: name,
      source: loadable,
      segmentName: z.string(),
      ranks: z.array(z.object({ rank, host: z.string(), directory: z.string(), deviceUuid: z.string() })),
      /** Sets of segments that may be reused. */
      spare: z.array(z.array(ownSegment)),
    },
    z.object({
      orders: z.array(loadRequest),
      /** Index in `spare` of the set that is reused; null if none is. */
      reused: z.int().nullable(),
      /** Segments that ranks create or overwrite; empty if a writer has filled them. */
      segments: z.array(ownSegment),
    }),
  ),
  merge: request('merge', { parts: z.array(z.object({ manifest: binary, digests: longs })) }, merged),
  /** Takes a manifest that is complete. */
  adopt: request('adopt', { manifest: binary }, merged),
  plan: request(
    'plan',
    {
      layout: z.string(),
      /** Ranks of one communicator. */
      ranks: z.array(z.object({ ...fabricRank.shape, freeBytes: bytes, waiting: workersSaid.shape.waiting })),
      /** All ranks that can be read from, and what hosts have received in earlier updates. */
      sources: z.array(fabricRank),
      copies: z.array(copy),
      /** Segments of the checkpoint that are gone. */
      lost: z.array(segment),
      /** Prefix of the names of segments that ranks receive into. */
      mirrorName: z.string(),
      memoryFraction: z.number(),
      bucketBytes: bytes,
      fused: fusedModules,
    },
    planned,
  ),
  /** The same for one instance whose ranks are each to get only what their engine workers keep. */
  planParts: request(
    'plan-parts',
    {
      layout: z.string(),
      ranks: z.array(
        z.object({
          rank,
          host: z.string(),
          freeBytes: bytes,
          waiting: workersSaid.shape.waiting,
          kept: z.array(keptAnnouncement),
        }),
      ),
      lost: z.array(segment),
      memoryFraction: z.number(),
      bucketBytes: bytes,
      fused: fusedModules,
      whole: wholeAlternative,
    },
    partsPlanned,
  ),
  /** Whether the workers of an instance have read all of what they have read of, by what they have said after an update. */
  checkReads: request(
    'check-reads',
    { layout: z.string(), ranks: z.array(z.object({ rank, digest: z.string() })) },
    readAnswer,
  ),
  /** What ranks have announced under this digest. */
  learnParts: notice('learn-parts', { digest: z.string(), cuts }),
  verify: request(
    'verify',
    {
      layout: z.string(),
      instance: name,
      /** With the plan by which each rank announced tensors to its worker. */
      reports: z.array(z.object({ rank, plan, arrived })),
    },
    /** Ranks whose digests are needed in full, to be asked again with; of none if all is right. */
    z.object({ lacking: z.array(rank) }),
  ),
  releaseLayout: notice('release-layout', { layout: z.string() }),
};

export type PlannerMessage = MessageIn<typeof toPlanner>;
