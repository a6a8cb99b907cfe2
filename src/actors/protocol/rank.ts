import * as z from 'zod';
import { document, examinedFile, exposedSegment, loadRequest } from './checkpoint-values.ts';
import { receptionRequest } from './join-values.ts';
import { sparing, updateRates } from './plan-values.ts';
import { type MessageIn, notice, request } from './table.ts';
import {
  arrivedDigests,
  communicator,
  communicatorRequest,
  createdCommunicator,
  keptAnnouncement,
  opened,
  streamed,
  workerAsked,
} from './update-values.ts';
import { binary, bytes, epoch, longs, milliseconds, nothing } from './values.ts';

export const toRank = {
  /** Looks at files on the rank's host. `known`: an identity that they are expected to have. */
  examine: request(
    'examine',
    { files: z.array(z.object({ path: z.string(), known: z.string() })) },
    z.object({ files: z.array(examinedFile) }),
  ),
  load: request('load', { order: loadRequest }, z.object({ digests: longs })),
  /** Answered when the memory is released, or will be with the last lease on it. */
  release: request('release', { segments: z.array(z.string()) }, nothing),
  /**
   * Releases what earlier supervisors have left: segments of sets up to number `set`, copies received in epochs up to `epoch`,
   * but those kept.
   */
  sweep: notice('sweep', {
    set: z.int().nonnegative(),
    epoch: z.int().nonnegative(),
    kept: z.array(z.string()),
  }),
  /** Its process is to end: it has outlived the one that could have told it so. */
  end: notice('end', {}),
  /** Lets ranks of other hosts read segments, which are kept until the lease is returned. */
  lease: request(
    'lease',
    { epoch, segments: z.array(z.string()) },
    z.object({ address: binary, exposed: z.array(exposedSegment) }),
  ),
  /** The same without a lease: segments stay exposed until they are released. */
  expose: request(
    'expose',
    { segments: z.array(z.string()) },
    z.object({ address: binary, exposed: z.array(exposedSegment) }),
  ),
  returnLease: notice('return-lease', { epoch }),
  /** Writes a piece of a document into the host's directory, for all ranks of the host. It is released as a segment. */
  writeDocument: request('write-document', { document, offset: bytes, piece: binary }, nothing),
  prepare: request(
    'prepare',
    { epoch },
    z.object({
      freeBytes: bytes,
      /** The bucket size that suits the device. */
      bucketBytes: bytes,
      /** Manifests, by layout, and plans, by digest, that the rank has cached. */
      layouts: z.array(z.string()),
      planDigests: z.array(z.string()),
      kept: z.array(keptAnnouncement),
      /** In its last update by whole tensors. */
      rates: updateRates,
    }),
  ),
  /** What it has answered to `stream` of its last epoch by a digest. */
  arrivedDigests: request('arrived-digests', { epoch }, arrivedDigests),
  /** What it has announced under this digest, as `packCuts` packs it. */
  keptParts: request('kept-parts', { digest: z.string() }, z.object({ packed: binary })),
  /** For one rank of a group without a communicator. */
  createCommunicator: request(
    'create-communicator',
    { epoch, communicator: communicatorRequest },
    createdCommunicator,
  ),
  open: request(
    'open',
    {
      epoch,
      /** `checkpoint@digest`, passed on to the engine worker. */
      version: z.string(),
      worker: workerAsked,
      /** How many times the engine worker receives the checkpoint: twice with a draft model. */
      exchanges: z.int().min(1).max(2),
      /** How long one answer of the engine worker may take. */
      stepTimeoutMilliseconds: milliseconds,
      /** Changes after a failure, and with the group's ranks. */
      communicator: communicator.nullable(),
      planDigest: z.string(),
      layout: z.string(),
      /** In the host's directory; null if the rank has them cached. */
      plan: document.nullable(),
      manifest: document.nullable(),
      /** Paths of the manifest's segments, packed (`packPaths`): those of files are not the ones of a cached manifest. */
      segments: binary,
      /** `arrivalDigest` of the checkpoint. */
      expected: z.string(),
      /** Null: all tensors are announced to the engine worker. */
      sparing: sparing.nullable(),
      /** What to receive from other hosts; null if nothing. */
      reception: receptionRequest.nullable(),
      /** With less free device memory than this during the update, the rank gives up its staging slot. */
      reserveBytes: bytes,
    },
    opened,
  ),
  /**
   * The engine worker gets no bucket before `start-loading`. `timeline`: whether the answer has the rank's, whose size grows
   * with the number of buckets.
   */
  stream: request('stream', { epoch, timeline: z.boolean() }, streamed),
  /** While it streams. Answered when the engine worker has connected and opened the link buffer. */
  connected: request('connected', { epoch }, nothing),
  startLoading: notice('start-loading', { epoch }),
  /** `loads`: how many buckets of that epoch the engine worker was asked to load; with 0 its weights are as before. */
  abort: request('abort', { epoch, reason: z.string() }, z.object({ loads: z.int().nonnegative() })),
};

export type RankMessage = MessageIn<typeof toRank>;
