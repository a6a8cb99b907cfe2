import { z } from 'zod';
import type { LoadJob } from '../../checkpoint/segment-store.ts';
import { allPauseModes } from '../../engines/engine-client.ts';
import type { WeightcastError } from '../../errors.ts';
import type { Interval } from '../../native-bridge/addon.ts';
import type { ActorRef, Request } from '../kernel/index.ts';
import type { Attempt } from '../rank/transfer.ts';
import type { Work } from '../supervisor/jobs.ts';
import type { LaunchedRank } from '../supervisor/ports.ts';
import { type InstanceOptions, instanceOptions } from './instance-options.ts';
import {
  address,
  binary,
  bytes,
  checkpointStatus,
  communicator,
  copy,
  createdCommunicator,
  doubles,
  epoch,
  exposedSegment,
  fabricRank,
  fabricSource,
  foreignSource,
  type Installed,
  installed,
  loadable,
  loadOrder,
  longs,
  merged,
  milliseconds,
  name,
  newCommunicator,
  nextReads,
  nothing,
  opened,
  ownSegment,
  piece,
  plan,
  planned,
  progress,
  rank,
  receptionOrder,
  segment,
  source,
  status,
  streamed,
  updateOptions,
  updateReport,
  words,
} from './values.ts';

/**
 * What the actors say to each other: one table per receiver, one line per message. `request` names what is answered
 * and with what, `notice` what is not. Tables are validated on arrival from another process, answers too
 * (conversation.ts). The plain types below a table never leave their process.
 */

const request = <T extends string, F extends z.ZodRawShape, R extends z.ZodType>(
  type: T,
  fields: F,
  reply: R,
) => ({
  type,
  schema: z.object({ type: z.literal(type), ...fields }),
  reply,
});
const notice = <T extends string, F extends z.ZodRawShape>(type: T, fields: F) =>
  request(type, fields, z.void());

type Table = Readonly<Record<string, { readonly schema: z.ZodType; readonly reply: z.ZodType }>>;
type MessageIn<T extends Table> = {
  [K in keyof T]: z.infer<T[K]['schema']> & Request<z.infer<T[K]['reply']>>;
}[keyof T];

// ── to the supervisor ──────────────────────────────────────────────────────────────────────────────────────────

export const toSupervisor = {
  register: request('register', { checkpoint: name, source }, checkpointStatus),
  /** Rejected while it is being installed, registered anew, or read by another host. */
  unregister: request('unregister', { checkpoint: name }, nothing),
  /**
   * Segments on `host` for tensors of these sizes, dealt out in runs to its ranks. `writer` fills them and then registers
   * what it wrote, and is told when they are forgotten.
   */
  reserve: request(
    'reserve',
    { checkpoint: name, host: z.string(), bytes: doubles, writer: address },
    z.object({
      reservation: z.int(),
      /** Those that are there already are written over; the writer makes the others. */
      isThere: z.boolean(),
      segments: z.array(z.object({ ...ownSegment.shape, tensors: z.int() })),
    }),
  ),
  /** The writer could not fill what it reserved, and has removed what it made. */
  cancelReservation: request('cancel-reservation', { reservation: z.int() }, nothing),
  /** Gives back the host memory that is kept for checkpoints to come. */
  releaseSpare: request('release-spare', {}, z.object({ bytes })),
  update: request('update', { checkpoint: name, options: updateOptions }, updateReport),
  /** A new instance joins the cluster: rank processes are started for it. Answered when they are there. */
  addInstance: request('add-instance', { instance: instanceOptions }, status),
  /** Ends the ranks of an instance, which is not updated any more. */
  removeInstance: request('remove-instance', { instance: name }, nothing),
  cancel: request('cancel', { reason: z.string() }, nothing),
  /** How other clusters read a checkpoint here: `Metas` of checkpoint/metas.ts but for the secret. */
  exportMetas: request(
    'export-metas',
    { checkpoint: name },
    z.object({ digest: z.string(), manifest: binary, sources: z.array(foreignSource) }),
  ),
  status: request('status', {}, status),
  awaitReady: request('await-ready', {}, status),
  subscribe: request('subscribe', { observer: address }, nothing),
  rankReady: notice('rank-ready', {
    rank,
    ref: address,
    deviceUuid: z.string(),
    host: z.string(),
    /** Where its host's segments lie. */
    directory: z.string(),
    /** Identity of that directory: another one once all that lay there is gone. */
    memory: z.string(),
    /** The RDMA ports that it uses; none where it has none. */
    nics: z.array(z.string()),
    /** Whether its collective also joins ranks of other hosts. */
    reach: z.enum(['host', 'cluster']),
    pid: z.int(),
    lastEpoch: z.int().nonnegative(),
  }),
  /** The rank cannot start, and starting it again would not help. */
  rankFailed: notice('rank-failed', { rank, error: z.object({ code: z.string(), message: z.string() }) }),
  progress: notice('progress', { progress }),
};

export type SupervisorMessage =
  | MessageIn<typeof toSupervisor>
  | { readonly type: 'launch-rank'; readonly rank: number }
  | { readonly type: 'bridge-open'; readonly instance: string; readonly bridge: ActorRef<BridgeMessage> }
  | {
      readonly type: 'rank-down';
      readonly rank: number;
      readonly ref: ActorRef<RankMessage>;
      readonly reason: string;
    }
  | {
      readonly type: 'rank-exited';
      readonly rank: number;
      readonly process: LaunchedRank;
      readonly reason: string;
    }
  | { readonly type: 'writer-down'; readonly writer: ActorRef<WriterMessage> }
  | { readonly type: 'engines-touched'; readonly instances: readonly string[] }
  /** A registration or an update is over; `settle` does what follows from it. */
  | { readonly type: 'work-ended'; readonly work: Work; readonly settle: () => void };

// ── to the planner ─────────────────────────────────────────────────────────────────────────────────────────────

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
      reports: z.array(z.object({ rank, plan, installed })),
    },
    nothing,
  ),
  forgetLayout: notice('forget-layout', { layout: z.string() }),
};

export type PlannerMessage = MessageIn<typeof toPlanner>;

// ── to a rank ──────────────────────────────────────────────────────────────────────────────────────────────────

export const toRank = {
  load: request('load', { order: loadOrder }, z.object({ digests: longs })),
  /** Answered when the memory has been given back, or will be with the last lease on it. */
  forget: request('forget', { segments: z.array(z.string()) }, nothing),
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
      createCommunicator: newCommunicator.nullable(),
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
      reception: receptionOrder.nullable(),
      /** Less free device memory than this in the middle of the update is pressure. */
      reserveBytes: bytes,
    },
    opened,
  ),
  stream: request('stream', { epoch }, streamed),
  abort: request('abort', { epoch, reason: z.string() }, nothing),
};

export type RankMessage =
  | MessageIn<typeof toRank>
  | { readonly type: 'load-ended'; readonly job: LoadJob; readonly result: BigUint64Array | WeightcastError }
  | { readonly type: 'staged'; readonly epoch: number; readonly bucket: number; readonly h2d: Interval }
  | {
      readonly type: 'uploaded-in-place';
      readonly epoch: number;
      readonly bucket: number;
      readonly h2d: Interval;
    }
  | { readonly type: 'broadcast-issued'; readonly epoch: number; readonly bucket: number }
  | {
      readonly type: 'broadcast-done';
      readonly epoch: number;
      readonly bucket: number;
      readonly broadcast: Interval;
    }
  | { readonly type: 'reloaded'; readonly epoch: number; readonly bucket: number; readonly reload: Interval }
  | { readonly type: 'report-progress' }
  | { readonly type: 'bucket-failed'; readonly epoch: number; readonly error: WeightcastError }
  | {
      readonly type: 'stream-ended';
      readonly epoch: number;
      readonly result: Installed | null | WeightcastError;
    };

// ── to a bucket, which lives in its rank's process ─────────────────────────────────────────────────────────────

export type BucketMessage =
  /** Upload a bucket that this rank owns into this slot. */
  | { readonly type: 'stage'; readonly attempt: Attempt; readonly bucket: number }
  /** Take a bucket through broadcast and reload. */
  | ({ readonly type: 'carry'; readonly attempt: Attempt; readonly bucket: number } & Carriage);

export interface Carriage {
  readonly from: CarryFrom;
  /** Of this rank's buckets: the others let go of its memory, because some of it is freed then. */
  readonly letsGo: boolean;
}

/** Where a bucket comes from before its broadcast: a staging slot of this rank, its host memory, or another rank. */
export type CarryFrom = 'staging' | 'host' | 'peer';

// ── to an engine bridge ────────────────────────────────────────────────────────────────────────────────────────

const pauseMode = z.enum(allPauseModes);

export const toBridge = {
  awaitHealthy: request('await-healthy', { timeoutMilliseconds: milliseconds }, nothing),
  pause: request('pause', { mode: pauseMode, timeoutMilliseconds: milliseconds }, nothing),
  resume: request('resume', { timeoutMilliseconds: milliseconds }, nothing),
  trigger: request(
    'trigger',
    {
      epoch,
      links: z.record(z.string(), z.string()),
      /** `checkpoint@digest`. */
      version: z.string(),
      resetCache: z.boolean(),
      timeoutMilliseconds: milliseconds,
    },
    nothing,
  ),
  abandon: request('abandon', { reason: z.string() }, nothing),
};

export type BridgeMessage =
  | MessageIn<typeof toBridge>
  | { readonly type: 'call-ended'; readonly call: number; readonly error: WeightcastError | null };

// ── to the swarm, in the supervisor's process ──────────────────────────────────────────────────────────────────

/** `swarm` names the checkpoint: all who join it at a time exchange its pieces. */
const swarm = z.string();

export const toSwarm = {
  openSwarm: request('open-swarm', { swarm, epoch, sliceBytes: doubles }, nothing),
  closeSwarm: notice('close-swarm', { swarm, epoch }),
  /** `isComplete`: it holds all of its slices now; otherwise it is about to receive them. */
  addSource: request('add-source', { swarm, source: fabricSource, isComplete: z.boolean() }, nothing),
  /** `returns`: it is being started anew. */
  removeSource: notice('remove-source', { swarm, rank, reason: z.string(), returns: z.boolean() }),
  /** It is there, and holds these no more. */
  reduceSource: notice('reduce-source', { swarm, rank, slices: z.array(z.int().nonnegative()) }),
  /** A rank that is a source lacks these pieces, in the order in which it wants them. */
  joinSwarm: request('join-swarm', { swarm, rank, pieces: words }, nothing),
  nextReads: request(
    'next-reads',
    {
      swarm,
      rank,
      arrived: z.array(piece),
      failed: z.array(z.object({ piece, source: rank, reason: z.string() })),
    },
    nextReads,
  ),
  leaveSwarm: notice('leave-swarm', { swarm, rank }),
};

export type SwarmMessage =
  | MessageIn<typeof toSwarm>
  | { readonly type: 'waited-enough'; readonly swarm: string; readonly rank: number }
  /** A receiver has left a source alone for long enough. */
  | { readonly type: 'try-again'; readonly swarm: string; readonly rank: number; readonly source: number };

// ── to a group of bridges, in the supervisor's process ─────────────────────────────────────────────────────────

export type BridgeGroupMessage =
  | { readonly type: 'open-bridge'; readonly instance: InstanceOptions }
  | { readonly type: 'close-bridge'; readonly instance: InstanceOptions };

// ── to a writer of tensors, in the process that owns the cluster ───────────────────────────────────────────────

export const toWriter = { forget: toRank.forget };

export type WriterMessage = MessageIn<typeof toWriter>;

// ── to an observer, in the process that owns the cluster ───────────────────────────────────────────────────────

export const toObserver = { progress: notice('observe', { progress }) };

export type ObserverMessage = MessageIn<typeof toObserver>;

/** The schema of all messages of a table, for `SpawnOptions.accepts`. */
export function anyOf<T extends Table>(table: T): z.ZodType<MessageIn<T>> {
  const schemas = Object.values(table).map((entry) => entry.schema) as unknown as [
    z.ZodObject,
    ...z.ZodObject[],
  ];
  return z.discriminatedUnion('type', schemas) as unknown as z.ZodType<MessageIn<T>>;
}
