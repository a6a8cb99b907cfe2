import { adoptedSegment } from '../checkpoint/file-identity.ts';
import type { Manifest, SegmentInfo } from '../checkpoint/manifest.ts';
import { placementOrder, selectRows } from '../checkpoint/manifest-rows.ts';
import { quoted } from '../checkpoint/printable.ts';
import type { CheckpointIndex } from '../checkpoint/source.ts';
import { CheckpointError } from '../errors.ts';
import { type LoadShare, planLoading } from './loading.ts';
import { findSet } from './segment-sets.ts';

/** What one rank will hold, and what it reads into its own segment. */
export interface LoadAssignment {
  readonly rank: number;
  /** Its own segment, if it has one, comes first; after it come adopted files. */
  readonly manifest: Manifest;
  /** Path of its own segment. */
  readonly segment: string | null;
  readonly reads: readonly {
    readonly path: string;
    readonly identity: string;
    readonly ranges: Float64Array;
  }[];
}

export interface FileAssignments {
  /** Of ranks that get something; digests are still 0. */
  readonly shares: readonly LoadAssignment[];
  /** The segments of all shares. */
  readonly segments: readonly SegmentInfo[];
  /** Index of the spare set that is reused; null for new segments. */
  readonly reused: number | null;
}

/** {@link planLoading} as manifests: into a spare set of segments if one has the right sizes, else into new ones. */
export function assignFiles(order: {
  readonly checkpoint: string;
  readonly index: CheckpointIndex;
  /** The identities of the index's files on each host that has ranks. */
  readonly identitiesOf: ReadonlyMap<string, readonly string[]>;
  /** Followed by the rank: the name of each rank's own segment in its host's directory, if it is new. */
  readonly segmentName: string;
  readonly ranks: readonly { readonly rank: number; readonly host: string; readonly directory: string }[];
  readonly spare: readonly (readonly SegmentInfo[])[];
}): FileAssignments {
  const { checkpoint, index, identitiesOf, segmentName, ranks, spare } = order;
  const memberOf = new Map(ranks.map((member) => [member.rank, member]));
  const shares = planLoading(
    index,
    ranks.map(({ rank }) => rank),
  ).filter((share) => share.rows.length > 0);
  const fresh = shares.flatMap(({ rank, segmentBytes: bytes }) => {
    const { host, directory } = memberOf.get(rank)!;
    return bytes === 0 ? [] : [{ path: `${directory}/${segmentName}${rank}`, bytes, host, rank }];
  });
  const reused = fresh.length === 0 ? null : findSet(spare, fresh);
  const segments = reused === null ? fresh : spare[reused]!;
  const segmentOf = new Map(segments.map((segment) => [segment.rank, segment]));
  const dealt = shares.map((share) => {
    const { rank, reads } = share;
    const own = segmentOf.get(rank) ?? null;
    const { host } = memberOf.get(rank)!;
    const identities = identitiesOf.get(host)!;
    return {
      rank,
      manifest: shareManifest(checkpoint, index, share, { host, identities, segment: own }),
      segment: own?.path ?? null,
      reads: reads.map(({ file, ranges }) => {
        return { path: index.files[file]!.path, identity: identities[file]!, ranges };
      }),
    };
  });
  return { shares: dealt, segments, reused };
}

function shareManifest(
  checkpoint: string,
  index: CheckpointIndex,
  { rank, rows, placeOf, offsets, adopted }: LoadShare,
  {
    host,
    identities,
    segment,
  }: {
    readonly host: string;
    readonly identities: readonly string[];
    readonly segment: SegmentInfo | null;
  },
): Manifest {
  const own = segment === null ? [] : [segment];
  const files = adopted.map((file) => ({
    path: adoptedSegment(index.files[file]!.path, identities[file]!),
    bytes: index.files[file]!.bytes,
    host,
    rank,
  }));
  const [start, end] = [rows[0]!, rows.at(-1)! + 1];
  const firstDimension = index.shapeStarts[start]!;
  return {
    checkpoint,
    names: index.names.slice(start, end),
    dtypes: index.dtypes.slice(start, end),
    shapeStarts: index.shapeStarts.slice(start, end + 1).map((position) => position - firstDimension),
    dimensions: index.dimensions.slice(firstDimension, index.shapeStarts[end]!),
    bytes: index.bytes.slice(start, end),
    segments: [...own, ...files],
    segmentOf: placeOf.map((place) => (place === 0 ? 0 : own.length + place - 1)),
    offsets,
    digests: new BigUint64Array(rows.length),
  };
}

/**
 * Assigns what was written into segments to their ranks, each its own segment. Throws a CheckpointError that names a
 * segment whose rank is gone.
 */
export function assignWritten(
  manifest: Manifest,
  ranks: readonly { readonly rank: number }[],
): LoadAssignment[] {
  const present = new Set(ranks.map(({ rank }) => rank));
  const rowsOf = new Map<SegmentInfo, number[]>(manifest.segments.map((segment) => [segment, []]));
  for (const row of placementOrder(manifest) ?? manifest.names.keys()) {
    rowsOf.get(manifest.segments[manifest.segmentOf[row]!]!)!.push(row);
  }
  return [...rowsOf].map(([segment, rows]) => {
    const { rank, path } = segment;
    if (!present.has(rank)) {
      throw new CheckpointError(`segment ${quoted(path)} was written for rank ${rank}, which is gone`);
    }
    const part = selectRows(manifest, Uint32Array.from(rows));
    const own = { ...part, segments: [segment], segmentOf: new Uint32Array(rows.length) };
    return { rank, manifest: own, segment: null, reads: [] };
  });
}
