import { z } from 'zod';
import type { Copy } from '../../plan/reception.ts';
import { binary, bytes, doubles, name, rank } from './values.ts';

/** What messages carry of checkpoints: where they come from, what ranks load, what is registered. */

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
export const loadRequest = z.object({
  rank,
  manifest: binary,
  segment: z.string().nullable(),
  /** The segment is there already, of the right size: what it holds is written over. */
  exists: z.boolean(),
  reads: z.array(z.object({ path: z.string(), ranges: doubles })),
  /** The manifest's digests are still blank, and the rank is to find them. */
  digest: z.boolean(),
});
export type LoadRequest = z.infer<typeof loadRequest>;

/** Shared memory that ranks of a host can reach by its path. */
export const segment = z.object({ path: z.string(), host: z.string() });
export type Segment = z.infer<typeof segment>;

/** A segment that weightcast makes, and the rank whose share of a checkpoint it takes. */
export const ownSegment = z.object({ ...segment.shape, rank, bytes });
export type OwnSegment = z.infer<typeof ownSegment>;

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
