import { z } from 'zod';
import { exposedSegment, loadRequest } from './checkpoint-values.ts';
import { receptionRequest } from './join-values.ts';
import { plan } from './plan-values.ts';
import { type MessageIn, notice, request } from './table.ts';
import { communicator, communicatorRequest, createdCommunicator, opened, streamed } from './update-values.ts';
import { binary, bytes, epoch, longs, nothing } from './values.ts';

export const toRank = {
  load: request('load', { order: loadRequest }, z.object({ digests: longs })),
  /** Answered when the memory has been given back, or will be with the last lease on it. */
  release: request('release', { segments: z.array(z.string()) }, nothing),
  /** Lets ranks of other hosts read segments, which stay until the lease is returned. */
  lease: request(
    'lease',
    { epoch, segments: z.array(z.string()) },
    z.object({ address: binary, exposed: z.array(exposedSegment) }),
  ),
  /** The same without a lease: what is exposed stays so until the segments are forgotten. */
  expose: request(
    'expose',
    { segments: z.array(z.string()) },
    z.object({ address: binary, exposed: z.array(exposedSegment) }),
  ),
  returnLease: notice('return-lease', { epoch }),
  prepare: request(
    'prepare',
    {
      epoch,
      /** Null for all but one rank, and for that too while there is one to use again. */
      createCommunicator: communicatorRequest.nullable(),
    },
    z.object({
      freeBytes: bytes,
      /** What suits the device. */
      bucketBytes: bytes,
      /** Manifests and plans that the rank still has from earlier updates, by layout and by digest. */
      layouts: z.array(z.string()),
      planDigests: z.array(z.string()),
      createdCommunicator: createdCommunicator.nullable(),
    }),
  ),
  open: request(
    'open',
    {
      epoch,
      /** `checkpoint@digest`: what the engine workers are told they get. */
      version: z.string(),
      /** Have the engine worker say what it holds in the end. */
      verify: z.boolean(),
      /** How often the engine worker takes everything: twice where a draft model takes it too. */
      exchanges: z.int().min(1).max(2),
      /** A new one after every failure and change of members. */
      communicator: communicator.nullable(),
      planDigest: z.string(),
      layout: z.string(),
      /** Null when the rank said in `prepare` that it holds them. */
      plan: plan.nullable(),
      manifest: binary.nullable(),
      /** Null for a rank that receives nothing. */
      reception: receptionRequest.nullable(),
      /** Less free device memory than this in the middle of the update is pressure. */
      reserveBytes: bytes,
    },
    opened,
  ),
  stream: request('stream', { epoch }, streamed),
  abort: request('abort', { epoch, reason: z.string() }, nothing),
};

export type RankMessage = MessageIn<typeof toRank>;
