import * as z from 'zod';
import type { Copy } from '../../plan/reception.ts';
import { binary, bytes, doubles, name, rank } from './values.ts';

/** Checkpoints as messages carry them: their sources, what ranks load, what is registered. */

export const exposedSegment = z.object({ path: z.string(), token: binary });

/** `ForeignSource` of checkpoint/metas.ts: a rank of another cluster, with a number that no rank of this one has. */
export const foreignSource = z.object({
  rank,
  host: z.string(),
  nics: z.array(z.string()),
  address: binary,
  segments: z.array(exposedSegment),
});
export type ForeignSource = z.infer<typeof foreignSource>;

/** `HostDocument` of checkpoint/host-documents.ts. */
export const document = z.object({ path: z.string(), digest: z.string(), bytes });

/** Safetensors files. */
export const fileSource = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('path'), path: z.string().min(1) }),
  z.object({ kind: z.literal('files'), files: z.array(z.string().min(1)).min(1) }),
]);
export type FileSource = z.infer<typeof fileSource>;

export const source = z.discriminatedUnion('kind', [
  ...fileSource.options,
  /** Tensors in reserved segments, with a manifest that has their digests. */
  z.object({ kind: z.literal('written'), reservation: z.int(), manifest: binary }),
  /** The memory of another cluster; `secret` is that of its fabric. */
  z.object({
    kind: z.literal('metas'),
    manifest: binary,
    secret: z.string(),
    sources: z.array(foreignSource).min(1),
  }),
]);
export type CheckpointSource = z.infer<typeof source>;

/** A file whose header was read, with its identity (checkpoint/file-identity.ts). */
export const openedFile = z.object({ path: z.string(), identity: z.string() });

/** The identities of a checkpoint's files, in their order, on a host whose ranks load it. */
export const loadingHost = z.object({ host: z.string(), identities: z.array(z.string()) });
export type LoadingHost = z.infer<typeof loadingHost>;

/** What a planner deals out to ranks. `opened`: the files that it opened under this number. */
export const loadable = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('opened'), number: z.int(), hosts: z.array(loadingHost) }),
  z.object({ kind: z.literal('written'), manifest: binary }),
]);
export type Loadable = z.infer<typeof loadable>;

/** `ExaminedFile` of checkpoint/segment-store.ts. */
export const examinedFile = z.object({ identity: z.string().nullable(), problem: z.string().nullable() });

/** One rank's share of a registration: the manifest of its tensors, and what to read into its segment. */
export const loadRequest = z.object({
  rank,
  manifest: binary,
  segment: z.string().nullable(),
  /** The segment exists, has the right size, and is overwritten. */
  exists: z.boolean(),
  reads: z.array(z.object({ path: z.string(), identity: z.string(), ranges: doubles })),
  /** The manifest's digests are blank: the rank computes them. */
  digest: z.boolean(),
});
export type LoadRequest = z.infer<typeof loadRequest>;

/** Shared memory of a host, by its path; a user's file by `adoptedSegment` of checkpoint/file-identity.ts. */
export const segment = z.object({ path: z.string(), host: z.string() });
export type Segment = z.infer<typeof segment>;

/** A segment that weightcast creates, for the share of one rank. */
export const ownSegment = z.object({ ...segment.shape, rank, bytes });
export type OwnSegment = z.infer<typeof ownSegment>;

/** A segment with the rank that loaded it. */
export const heldSegment = segment.extend({ rank });
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

export const checkpointStatus = z.object({
  checkpoint: name,
  /** Digest of its content: a version is `checkpoint@digest`. */
  digest: z.string(),
  tensors: z.int(),
  bytes,
  /** Duration of the registration. */
  seconds: z.number(),
});
export type CheckpointStatus = z.infer<typeof checkpointStatus>;

/** A registered checkpoint. */
export interface Registered {
  /** Parts that other hosts have received and kept. */
  readonly copies: readonly Copy[];
  /** The other cluster whose memory it is in; null if it is in this one's. */
  readonly foreign: { readonly secret: string; readonly sources: readonly ForeignSource[] } | null;
  readonly status: CheckpointStatus;
  readonly layout: string;
  readonly manifest: Uint8Array;
  /** Created segments, and files in shared memory that are used in place. */
  readonly segments: readonly HeldSegment[];
  /** Those of `segments` that are gone because their host lost its memory. */
  readonly lost: readonly Segment[];
}
