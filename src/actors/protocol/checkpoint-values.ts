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

/** Sources that ranks load from. `written`: tensors in reserved segments, with a manifest that has their digests. */
export const loadable = [
  z.object({ kind: z.literal('path'), path: z.string().min(1) }),
  z.object({ kind: z.literal('files'), files: z.array(z.string().min(1)).min(1) }),
  z.object({ kind: z.literal('written'), reservation: z.int(), manifest: binary }),
] as const;

export const source = z.discriminatedUnion('kind', [
  ...loadable,
  /** The memory of another cluster; `secret` is that of its fabric. */
  z.object({
    kind: z.literal('metas'),
    manifest: binary,
    secret: z.string(),
    sources: z.array(foreignSource).min(1),
  }),
]);
export type CheckpointSource = z.infer<typeof source>;

/** One rank's share of a registration: the manifest of its tensors, and what to read into its segment. */
export const loadRequest = z.object({
  rank,
  manifest: binary,
  segment: z.string().nullable(),
  /** The segment exists, has the right size, and is overwritten. */
  exists: z.boolean(),
  reads: z.array(z.object({ path: z.string(), ranges: doubles })),
  /** The manifest's digests are blank: the rank computes them. */
  digest: z.boolean(),
});
export type LoadRequest = z.infer<typeof loadRequest>;

/** Shared memory of a host, by its path. */
export const segment = z.object({ path: z.string(), host: z.string() });
export type Segment = z.infer<typeof segment>;

/** A segment that weightcast creates, for the share of one rank. */
export const ownSegment = z.object({ ...segment.shape, rank, bytes });
export type OwnSegment = z.infer<typeof ownSegment>;

/** A segment with the rank that loaded it. */
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
