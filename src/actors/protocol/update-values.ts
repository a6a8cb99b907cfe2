import { z } from 'zod';
import { fabricSource } from './join-values.ts';
import { plan } from './plan-values.ts';
import { binary, bytes, doubles, epoch, longs, milliseconds, name, rank, shorts } from './values.ts';

/** What messages carry of an update: how it is asked for, how ranks open it, what they report. */

export const updateRequest = z.object({
  /** Names of the instances to update; all of them if not given. */
  instances: z.array(name).min(1).optional(),
  bucketBytes: bytes.optional(),
  /** Part of the free device memory that an update may take, in (0, 1]. */
  memoryFraction: z.number().gt(0).lte(1),
  verify: z.boolean(),
  /** What ranks receive from other hosts they keep, and can be read from. */
  keepCopy: z.boolean(),
  timeoutMilliseconds: milliseconds,
});
export type UpdateRequest = z.infer<typeof updateRequest>;

export const communicatorRequest = z.object({
  number: z.int().positive(),
  /** On how many hosts the members are. */
  hosts: z.int().positive(),
  /** Whether two members are on one device. */
  sharesDevices: z.boolean(),
});
export type CommunicatorRequest = z.infer<typeof communicatorRequest>;

/** What the rank has made that was asked to create a communicator. */
export const createdCommunicator = z.object({
  id: binary,
  /** Shorter buckets cost it as much as these; 0 if any will do. */
  leastBucketBytes: bytes,
});
export type CreatedCommunicator = z.infer<typeof createdCommunicator>;

/** The id comes from the rank that was asked to create the communicator; nobody else looks into it. */
export const communicator = z.object({ number: z.int().positive(), id: binary });
export type Communicator = z.infer<typeof communicator>;

export const opened = z.discriminatedUnion('outcome', [
  z.object({
    outcome: z.literal('open'),
    linkAddress: z.string(),
    /** Where others may read what this rank is about to receive. */
    receiving: fabricSource.nullable(),
  }),
  z.object({ outcome: z.literal('pressure'), wantedBytes: bytes, freeBytes: bytes }),
]);
export type Opened = z.infer<typeof opened>;

/** `InstalledReport` of engines/worker-link: what an engine worker says it holds. */
export const installed = z.object({
  digests: longs,
  part: shorts,
  parts: shorts,
});
export type Installed = z.infer<typeof installed>;

/** What one rank did when. Three numbers a span: bucket, start, end; milliseconds of the host's monotonic clock. */
const timeline = z.object({
  rank,
  /** Pieces that were read from other hosts, by their numbers. */
  read: doubles,
  h2d: doubles,
  broadcast: doubles,
  reload: doubles,
});
export type RankTimeline = z.infer<typeof timeline>;

/** What came over the fabric from a rank; one of another cluster has a number that is not of this one. */
const received = z.object({ from: rank, bytes });
export type Received = z.infer<typeof received>;

export const streamed = z.object({ timeline, installed: installed.nullable(), received: z.array(received) });
export type Streamed = z.infer<typeof streamed>;

export const updateReport = z.object({
  epoch,
  checkpoint: name,
  digest: z.string(),
  mode: plan.shape.mode,
  ranks: z.int(),
  tensors: z.int(),
  bytes,
  /** Of them, what ranks have received from other hosts. */
  receivedBytes: bytes,
  /** Who gave them. */
  received: z.array(received),
  buckets: z.int(),
  /** What a rank took of device memory at most: so many slots of so many bytes. */
  slots: z.int(),
  slotBytes: bytes,
  /** The whole update, from prepare to commit. */
  seconds: z.number(),
  /** From the first upload to the last acknowledgement. */
  streamSeconds: z.number(),
  /** True: every worker proved by digests what it holds. Null: not asked, or the workers cannot say. */
  verified: z.literal(true).nullable(),
  /** Of the first ranks, as many as go into a message. */
  timelines: z.array(timeline),
});
export type UpdateReport = z.infer<typeof updateReport>;
