import * as z from 'zod';
import { answersAsked } from './answers.ts';
import { fabricSource } from './join-values.ts';
import { fusedModules, plan } from './plan-values.ts';
import { binary, bytes, doubles, epoch, longs, milliseconds, name, rank, shorts } from './values.ts';

/** Updates as messages carry them: the request, communicators, answers of ranks, the report. */

/** Which proofs an update is asked for. */
export const proofsAsked = z.object({
  arrived: z.boolean(),
  installed: z.boolean(),
  answers: answersAsked.optional(),
});
export type ProofsAsked = z.infer<typeof proofsAsked>;

/**
 * What engines hold that were started with a version, by the place of their workers. `differing`: names of tensors that differ
 * between two such starts.
 */
export const baseline = z.array(
  z.object({
    place: z.record(z.string(), z.union([z.string(), z.number()])),
    layout: z.string(),
    names: z.array(z.string()),
    digests: longs,
    differing: z.array(z.string()),
  }),
);
export type Baseline = z.infer<typeof baseline>;

export const updateRequest = z.object({
  /** Names of the instances to update. Default: all. */
  instances: z.array(name).min(1).optional(),
  bucketBytes: bytes.optional(),
  /** `FusedModules` of plan/fused-tensors.ts, beside those that it knows. */
  fusedModules: fusedModules.optional(),
  /** Part of the free device memory that an update may take, in (0, 1]. */
  memoryFraction: z.number().gt(0).lte(1),
  verify: proofsAsked,
  /** To compare with what the engines hold after the update; null: there is none. */
  baseline: baseline.nullable(),
  /** Update also models that are not known to answer rightly after a reload. */
  acceptUnproven: z.boolean(),
  /** Reject when any instance fails, though others are updated. */
  atomic: z.boolean(),
  /** Bring instances that fail to the version of the others when they are back. */
  heal: z.boolean(),
  /** Hosts keep what they receive from other hosts, and serve it to others. */
  keepCopy: z.boolean(),
  /** Send each rank only the parts of tensors that its engine worker keeps, where these are known. */
  parts: z.boolean(),
  timeoutMilliseconds: milliseconds,
  /** How long one answer of an engine worker may take. Default: longer for a larger checkpoint. */
  stepTimeoutMilliseconds: milliseconds.optional(),
  /** From the first worker of an instance that has connected to the last one. */
  connectTimeoutMilliseconds: milliseconds.optional(),
  /** Of an engine that is down, or starts, until it is ready. */
  readyTimeoutMilliseconds: milliseconds.optional(),
  /** Of one try to resume an engine, as far as the update waits for it. */
  resumeTimeoutMilliseconds: milliseconds.optional(),
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
  /** The rank has to compare a file, and its cached manifest has the digests of an earlier version: it is to be sent. */
  z.object({ outcome: z.literal('outdated') }),
]);
export type Opened = z.infer<typeof opened>;

/** `ArrivedDigests` of engines/worker-link: digests of what an engine worker has received. */
export const arrivedDigests = z.object({
  digests: longs,
  part: shorts,
  parts: shorts,
});
export type ArrivedDigests = z.infer<typeof arrivedDigests>;

/**
 * `as registered`: of every tensor that was announced the whole, with the checkpoint's digest. `digest`: of parts as they were announced, the
 * `arrivalDigest` of all their digests, which the rank keeps.
 */
export const arrived = z.union([
  z.literal('as registered'),
  arrivedDigests,
  z.object({ digest: z.string() }),
]);
export type Arrived = z.infer<typeof arrived>;

export function isShort(said: Arrived): said is Extract<Arrived, { digest: string }> {
  return typeof said === 'object' && 'digest' in said;
}

/** What an engine worker is asked beside loading the weights. */
export const workerAsked = z.object({
  /** Digests of what it received. */
  report: z.boolean(),
  /** Digests of what its model holds; these layouts of them are known by name. Null: not asked. */
  liveLayouts: z.array(z.string()).nullable(),
  /** To load also into models that are not known to compute with what is loaded. */
  acceptUnproven: z.boolean(),
  /** To wait at least as long for its rank: other workers of the update, or other hosts, may keep that waiting. */
  silenceSeconds: z.number().positive(),
  /** The version of the worker link that it understands. */
  protocol: z.int(),
  /**
   * What it keeps of each tensor: not asked; asked if its rank does not know; what its rank knows is out of date, and it is
   * asked, or not.
   */
  parts: z.enum(['no', 'learn', 'anew', 'forget']),
});
export type WorkerAsked = z.infer<typeof workerAsked>;

/** That a rank knows what its engine worker keeps of a list of tensors (`tensorsDigest`), by the digest of that. */
export const keptAnnouncement = z.object({ tensors: z.string(), digest: z.string() });
export type KeptAnnouncement = z.infer<typeof keptAnnouncement>;

/** `LiveDigests` of engines/worker-link: what an engine worker holds. */
export const liveDigests = z.object({
  place: z.record(z.string(), z.union([z.string(), z.number()])),
  coverage: z.enum(['complete', 'unknown']),
  layout: z.string(),
  digests: longs,
  /** In one string, between line feeds. Null if the supervisor knows those of the layout. */
  names: z.string().nullable(),
});
export type LiveDigests = z.infer<typeof liveDigests>;

/**
 * Where a rank has given up its staging slots in the middle of an update, because other processes had taken the free device
 * memory: the first bucket that was uploaded straight into its link slot, and when, by its host's monotonic clock.
 */
const serialFrom = z.object({ rank, bucket: z.int().nonnegative(), at: z.number() });
export type SerialFrom = z.infer<typeof serialFrom>;

/** Spans of one rank's work, three numbers each: bucket, start, end, in milliseconds of its host's monotonic clock. */
const timeline = z.object({
  rank,
  /** Here the first number is that of a piece read from another host. */
  read: doubles,
  h2d: doubles,
  broadcast: doubles,
  reload: doubles,
  /** Null if it kept its staging slots, or had none. */
  serialFrom: serialFrom.nullable(),
});
export type RankTimeline = z.infer<typeof timeline>;

/**
 * Bytes read over the fabric from one rank; a rank of another cluster has a number that no rank of this one has. `over`: mapped
 * memory of the same host, RDMA (`verbs`) or TCP; `whyNotRdma`: why it was TCP, if that was not asked for.
 */
const received = z.object({
  from: rank,
  bytes,
  over: z.enum(['shm', 'verbs', 'tcp']),
  whyNotRdma: z.string().nullable(),
});
export type Received = z.infer<typeof received>;

export const streamed = z.object({
  /** The start of its first upload and the end of its last reload, as in the timeline; null if it had none. */
  startedAt: z.number().nullable(),
  endedAt: z.number().nullable(),
  /** Null if it was not asked for. */
  timeline: timeline.nullable(),
  /** Null if it kept its staging slots, or had none. */
  serialFrom: serialFrom.nullable(),
  /** Null if it was not asked for, or its worker was asked and does not say. */
  arrived: arrived.nullable(),
  /** Who has seen that: the worker what it received, or its rank what it laid ready for a worker that cannot say. */
  seenBy: z.enum(['worker', 'rank']),
  /** One for each exchange; none if its worker was not asked, or does not say. */
  live: z.array(liveDigests),
  /** What its worker has said in this update that it keeps; null if it has not. */
  learned: keptAnnouncement.nullable(),
  received: z.array(received),
  /** From host memory to its device. */
  uploadedBytes: bytes,
});
export type Streamed = z.infer<typeof streamed>;

/**
 * What is proved of one instance, weakest first. `unknown`: asked for, but its engine workers do not say. A proof that
 * fails makes the instance `broken`.
 */
export const proofs = z.object({
  /** Digests of the bytes that every worker received equal the checkpoint's. Says nothing of what the model made of them. */
  arrived: z.enum(['holds', 'unknown', 'not asked']),
  /**
   * `consistent`: all that should change was written, and digests of the live tensors are equal among replicas or to those
   * of an earlier install. `holds`: they are equal to a baseline, too.
   */
  installed: z.enum(['holds', 'consistent', 'unknown', 'not asked']),
  /** The engine's answers to a few prompts are as they should be. */
  answering: z.enum(['holds', 'not asked']),
});
export type Proofs = z.infer<typeof proofs>;

/** What one update has made of one instance. */
export const instanceReport = z.object({
  name,
  /** `updated`: it holds the new version. `unchanged`: what it held before. `broken`: neither, until an update succeeds. */
  outcome: z.enum(['updated', 'unchanged', 'broken']),
  /** The update has paused it, and could not, or must not, resume it. */
  paused: z.boolean(),
  proofs,
  /**
   * Of the engine, which the old weights computed: if they are kept, it may answer from them. Null if its weights are not all
   * new.
   */
  caches: z.enum(['dropped', 'kept']).nullable(),
  /** What its ranks were sent: only what their engine workers keep, or whole tensors. Null if nothing was. */
  fed: z.enum(['parts', 'whole']).nullable(),
  /** Why not parts, if it was whole tensors and the update allowed parts. */
  whyWhole: z.string().nullable(),
  /** It was updated, and its draft model has kept its weights: why. Null if it has none, has taken them, or nobody knows. */
  draftKept: z.string().nullable(),
  /** From the start of the update until this instance was done with. */
  seconds: z.number(),
  /** Why it was not updated, or is still paused. */
  error: z.object({ code: z.string(), message: z.string() }).nullable(),
});
export type InstanceReport = z.infer<typeof instanceReport>;

export const updateReport = z.object({
  /** The last one that has updated an instance. */
  epoch,
  checkpoint: name,
  digest: z.string(),
  /** As planned. */
  mode: plan.shape.mode,
  /** Ranks that went on serially from some bucket on, because device memory ran short; the next update is planned anew. */
  serialFrom: z.array(serialFrom),
  /** Of the instances that were updated, as are the figures below. */
  ranks: z.int(),
  tensors: z.int(),
  bytes,
  /** Bytes that were read from other hosts. */
  receivedBytes: bytes,
  /** The same by the rank they were read from, and the way. */
  received: z.array(received),
  /** Of each rank, the bytes that came to its device from host memory, and from the devices of other ranks. */
  links: z.array(z.object({ rank, uploadedBytes: bytes, broadcastBytes: bytes })),
  buckets: z.int(),
  /** Device memory of a rank, at most: `slots` of `slotBytes` each, and one of `largeSlotBytes` for larger tensors. */
  slots: z.int(),
  slotBytes: bytes,
  largeSlotBytes: bytes,
  /** Duration of the update, from prepare to the resumption of engines. */
  seconds: z.number(),
  /** From the first upload to the last acknowledgement. */
  streamSeconds: z.number(),
  instances: z.array(instanceReport),
  /** Of the first ranks: as many as take 4 MiB, and at least of one. */
  timelines: z.array(timeline),
});
export type UpdateReport = z.infer<typeof updateReport>;
