import { z } from 'zod';
import type { Copy } from '../../plan/reception.ts';

/** What messages carry, each as a schema and, where code holds one, as a type; messages.ts has the messages. */

export const epoch = z.int().positive();
export const rank = z.int().min(0).max(65_535);
export const bytes = z.number().nonnegative().max(Number.MAX_SAFE_INTEGER);
export const name = z.string().min(1).max(256);
export const milliseconds = z.number().positive();
export const nothing = z.object({});
export const binary = z.custom<Uint8Array>((value) => value instanceof Uint8Array, 'expected bytes');
export const doubles = z.custom<Float64Array>(
  (value) => value instanceof Float64Array,
  'expected a Float64Array',
);
export const words = z.custom<Uint32Array>((value) => value instanceof Uint32Array, 'expected a Uint32Array');
const shorts = z.custom<Uint16Array>((value) => value instanceof Uint16Array, 'expected a Uint16Array');
export const longs = z.custom<BigUint64Array>(
  (value) => value instanceof BigUint64Array,
  'expected a BigUint64Array',
);
export const address = z.object({ node: z.string(), name: z.string(), generation: z.int() });

export const exposedSegment = z.object({ path: z.string(), token: binary });

/** `ForeignSource` of checkpoint/metas.ts: a rank of another cluster, under a number that is not of this one. */
export const foreignSource = z.object({
  rank,
  host: z.string(),
  nics: z.array(z.string()),
  address: binary,
  segments: z.array(exposedSegment),
});
export type ForeignSource = z.infer<typeof foreignSource>;

/** Where a checkpoint's bytes come from. What was written into reserved segments has a manifest with its digests. */
export const loadable = [
  z.object({ kind: z.literal('path'), path: z.string().min(1) }),
  z.object({ kind: z.literal('files'), files: z.array(z.string().min(1)).min(1) }),
  z.object({ kind: z.literal('written'), reservation: z.int(), manifest: binary }),
] as const;
export const source = z.discriminatedUnion('kind', [
  ...loadable,
  /** In the memory of another cluster, whose fabric's secret is known. */
  z.object({
    kind: z.literal('metas'),
    manifest: binary,
    secret: z.string(),
    sources: z.array(foreignSource).min(1),
  }),
]);
export type CheckpointSource = z.infer<typeof source>;

/** One rank's share of loading: its encoded manifest, and what to read into its own segment. */
export const loadOrder = z.object({
  rank,
  manifest: binary,
  segment: z.string().nullable(),
  /** The segment is there already, of the right size: what it holds is written over. */
  isThere: z.boolean(),
  reads: z.array(z.object({ path: z.string(), ranges: doubles })),
  /** The manifest's digests are still blank, and the rank is to find them. */
  digest: z.boolean(),
});
export type LoadOrder = z.infer<typeof loadOrder>;

/** Shared memory that ranks of a host can reach by its path. */
export const segment = z.object({ path: z.string(), host: z.string() });
export type Segment = z.infer<typeof segment>;

/** A segment that weightcast makes, and the rank whose share of a checkpoint it takes. */
export const ownSegment = z.object({ ...segment.shape, rank, bytes });
export type OwnSegment = z.infer<typeof ownSegment>;

/** `Plan` of plan/buckets.ts. */
export const plan = z.object({
  digest: z.string(),
  layout: z.string(),
  mode: z.enum(['pipelined', 'serial']),
  slots: z.int(),
  slotBytes: bytes,
  ranks: words,
  owners: words,
  tensorStarts: words,
  tensorOrder: words,
  tensorOffsets: doubles,
  bucketBytes: doubles,
});

/** `ArrivedDigests` of engines/worker-link: digests of the bytes that an engine worker received. */
export const arrivedDigests = z.object({
  digests: longs,
  part: shorts,
  parts: shorts,
});
export type ArrivedDigests = z.infer<typeof arrivedDigests>;

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

export const checkpointStatus = z.object({
  checkpoint: name,
  /** Content digest, the version's second half. */
  digest: z.string(),
  tensors: z.int(),
  bytes,
  /** How long registration took. */
  seconds: z.number(),
});
export type CheckpointStatus = z.infer<typeof checkpointStatus>;

/** What came over the fabric from a rank; one of another cluster has a number that is not of this one. */
const received = z.object({ from: rank, bytes });
export type Received = z.infer<typeof received>;

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

export const progress = z.object({
  activity: z.enum(['load', 'receive', 'update']),
  rank,
  doneBytes: bytes,
  totalBytes: bytes,
});
export type Progress = z.infer<typeof progress>;

export const status = z.object({
  epoch: z.int().nonnegative(),
  ranks: z.array(
    z.object({
      rank,
      state: z.enum(['starting', 'ready', 'down']),
      deviceUuid: z.string().nullable(),
      host: z.string().nullable(),
      pid: z.int().nullable(),
    }),
  ),
  instances: z.array(
    z.object({
      name,
      endpoint: z.string(),
      ranks: z.array(rank),
      state: z.enum(['unknown', 'updating', 'serving', 'mixed']),
      /** What every worker of the instance acknowledged in one epoch; null when unknown or mixed. */
      version: z.object({ checkpoint: name, digest: z.string() }).nullable(),
    }),
  ),
  checkpoints: z.array(checkpointStatus),
  /** Host memory of checkpoints that are no longer registered, kept for the next one of the same size. */
  spareBytes: bytes,
});
export type ClusterStatus = z.infer<typeof status>;

export const updateOptions = z.object({
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
export type UpdateOptions = z.infer<typeof updateOptions>;

/** `FabricRank` of plan/reception.ts. */
export const fabricRank = z.object({
  rank,
  host: z.string(),
  directory: z.string(),
  nics: z.array(z.string()),
});
/** `Copy` of plan/reception.ts. */
export const copy = z.object({ slice: z.int().nonnegative(), path: z.string(), host: z.string(), rank });

/** With the rank that loaded it. */
const heldSegment = segment.extend({ rank });
export type HeldSegment = z.infer<typeof heldSegment>;

export const merged = z.object({
  layout: z.string(),
  digest: z.string(),
  tensors: z.int(),
  bytes,
  manifest: binary,
  segments: z.array(heldSegment),
});
export type Merged = z.infer<typeof merged>;

export const planned = z.object({
  plan,
  /** As the group sees the checkpoint; null if that is as it was registered. */
  manifest: binary.nullable(),
  /** Null if the group has everything. */
  reception: z
    .object({
      sliceBytes: doubles,
      mirrors: z.array(z.object({ slice: z.int().nonnegative(), receiver: rank, path: z.string(), bytes })),
      served: z.array(
        z.object({
          rank,
          host: z.string(),
          slices: z.array(z.object({ slice: z.int().nonnegative(), path: z.string(), offset: bytes })),
        }),
      ),
    })
    .nullable(),
});
export type Planned = z.infer<typeof planned>;

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
export const receptionOrder = z.object({
  swarm: z.string(),
  ref: address,
  sliceBytes: doubles,
  mirrors: z.array(z.object({ slice: z.int().nonnegative(), path: z.string(), bytes })),
});
export type ReceptionOrder = z.infer<typeof receptionOrder>;

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

export const newCommunicator = z.object({
  number: z.int().positive(),
  /** On how many hosts the members are. */
  hosts: z.int().positive(),
  /** Whether two members are on one device. */
  sharesDevices: z.boolean(),
});
export type NewCommunicator = z.infer<typeof newCommunicator>;

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

export const streamed = z.object({
  timeline,
  arrivedDigests: arrivedDigests.nullable(),
  received: z.array(received),
});
export type Streamed = z.infer<typeof streamed>;

export const piece = z.int().nonnegative();
export const nextReads = z.object({
  reads: z.array(z.object({ piece, source: rank })),
  /** Those among the sources that the receiver has not been told of. */
  sources: z.array(fabricSource),
  /** Everything has arrived. */
  isDone: z.boolean(),
});
export type NextReads = z.infer<typeof nextReads>;

/** A checkpoint that is loaded and planned for. */
export interface Registered {
  /** What hosts that joined have received and kept. */
  readonly copies: readonly Copy[];
  /** The other cluster that holds it; null if this one does. */
  readonly foreign: { readonly secret: string; readonly sources: readonly ForeignSource[] } | null;
  readonly status: CheckpointStatus;
  readonly layout: string;
  readonly manifest: Uint8Array;
  /** Its own and those of files that were adopted. */
  readonly segments: readonly HeldSegment[];
  /** Of them, those that went with the memory of their host. */
  readonly lost: readonly Segment[];
}
