import * as z from 'zod';
import { fabricSource } from './join-values.ts';
import { fusedModules, plan } from './plan-values.ts';
import { binary, bytes, doubles, epoch, longs, milliseconds, name, rank, shorts } from './values.ts';

/** Updates as messages carry them: the request, communicators, answers of ranks, the report. */

export const updateRequest = z.object({
  /** Names of the instances to update. Default: all. */
  instances: z.array(name).min(1).optional(),
  bucketBytes: bytes.optional(),
  /** `FusedModules` of plan/fused-tensors.ts, beside those that it knows. */
  fusedModules: fusedModules.optional(),
  /** Part of the free device memory that an update may take, in (0, 1]. */
  memoryFraction: z.number().gt(0).lte(1),
  verify: z.boolean(),
  /** Hosts keep what they receive from other hosts, and serve it to others. */
  keepCopy: z.boolean(),
  timeoutMilliseconds: milliseconds,
  /** How long one answer of an engine worker may take. Default: longer for a larger checkpoint. */
  stepTimeoutMilliseconds: milliseconds.optional(),
});
export type UpdateRequest = z.infer<typeof updateRequest>;

export const communicatorRequest = z.object({
  number: z.int().positive(),
  /** Number of hosts of its ranks. */
  hosts: z.int().positive(),
  /** Whether two of its ranks share a device. */
  sharesDevices: z.boolean(),
});
export type CommunicatorRequest = z.infer<typeof communicatorRequest>;

/** A new communicator, from the rank that created it. */
export const createdCommunicator = z.object({
  id: binary,
  /** Smaller buckets take as long to broadcast as buckets of this size; 0 if there is no such size. */
  leastBucketBytes: bytes,
});
export type CreatedCommunicator = z.infer<typeof createdCommunicator>;

/** `id` is opaque to all but the ranks that open the communicator. */
export const communicator = z.object({ number: z.int().positive(), id: binary });
export type Communicator = z.infer<typeof communicator>;

export const opened = z.discriminatedUnion('outcome', [
  z.object({
    outcome: z.literal('open'),
    linkAddress: z.string(),
    /** Where other ranks can read what this one receives; null if it receives nothing. */
    receiving: fabricSource.nullable(),
  }),
  z.object({ outcome: z.literal('pressure'), wantedBytes: bytes, freeBytes: bytes }),
]);
export type Opened = z.infer<typeof opened>;

/** `ArrivedDigests` of engines/worker-link: digests of what an engine worker has received. */
export const arrivedDigests = z.object({
  digests: longs,
  part: shorts,
  parts: shorts,
});
export type ArrivedDigests = z.infer<typeof arrivedDigests>;

/** Spans of one rank's work, three numbers each: bucket, start, end, in milliseconds of its host's monotonic clock. */
const timeline = z.object({
  rank,
  /** Here the first number is that of a piece read from another host. */
  read: doubles,
  h2d: doubles,
  broadcast: doubles,
  reload: doubles,
});
export type RankTimeline = z.infer<typeof timeline>;

/** Bytes read over the fabric from one rank; a rank of another cluster has a number that no rank of this one has. */
const received = z.object({ from: rank, bytes });
export type Received = z.infer<typeof received>;

export const streamed = z.object({
  timeline,
  arrivedDigests: arrivedDigests.nullable(),
  received: z.array(received),
});
export type Streamed = z.infer<typeof streamed>;

export const updateReport = z.object({
  epoch,
  checkpoint: name,
  digest: z.string(),
  mode: plan.shape.mode,
  ranks: z.int(),
  tensors: z.int(),
  bytes,
  /** Bytes that were read from other hosts. */
  receivedBytes: bytes,
  /** The same by the rank they were read from. */
  received: z.array(received),
  buckets: z.int(),
  /** Device memory of a rank, at most: `slots` of `slotBytes` each, and one of `largeSlotBytes` for larger tensors. */
  slots: z.int(),
  slotBytes: bytes,
  largeSlotBytes: bytes,
  /** Duration of the update, from prepare to the resumption of engines. */
  seconds: z.number(),
  /** From the first upload to the last acknowledgement. */
  streamSeconds: z.number(),
  /** True: digests of what every worker received match the checkpoint. Null: not asked for, or not reported. */
  verified: z.literal(true).nullable(),
  /** Of the first ranks, as many as fit into a message. */
  timelines: z.array(timeline),
});
export type UpdateReport = z.infer<typeof updateReport>;
