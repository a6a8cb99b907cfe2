import { adoptedSegment, segmentFile } from '../checkpoint/file-identity.ts';
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

export interface LoadingRank {
  readonly rank: number;
  readonly host: string;
  readonly directory: string;
  /** Needed where files are in the memory of devices. */
  readonly deviceUuid?: string;
}

/** Where a rank holds its share. */
interface Home {
  readonly host: string;
  /** Of the index's files on that host. */
  readonly identities: readonly string[];
  /** The rank's own, if it has one. */
  readonly segment: SegmentInfo | null;
}

/** {@link planLoading} as manifests: into a spare set of segments if one has the right sizes, else into new ones. */
export function assignFiles(order: {
  readonly checkpoint: string;
  readonly index: CheckpointIndex;
  /** The identities of the index's files on each host that has ranks. */
  readonly identitiesOf: ReadonlyMap<string, readonly string[]>;
  /** Followed by the rank: the name of each rank's own segment in its host's directory, if it is new. */
  readonly segmentName: string;
  readonly ranks: readonly LoadingRank[];
  readonly spare: readonly (readonly SegmentInfo[])[];
}): FileAssignments {
  const { checkpoint, index, identitiesOf, segmentName, ranks, spare } = order;
  const memberOf = new Map(ranks.map((member) => [member.rank, member]));
  const shares = planLoading(
    index,
    ranks.map(({ rank }) => rank),
    (device) => rankOnDevice(device, ranks),
  ).filter((share) => share.rows.length > 0);
  const fresh = shares.flatMap(({ rank, segmentBytes: bytes }) => {
    const { host, directory } = memberOf.get(rank)!;
    return bytes === 0 ? [] : [{ path: `${directory}/${segmentName}${rank}`, bytes, host, rank }];
  });
  const reused = fresh.length === 0 ? null : findSet(spare, fresh);
  const segments = reused === null ? fresh : spare[reused]!;
  const segmentOf = new Map(segments.map((segment) => [segment.rank, segment]));
  const table = asManifest(checkpoint, index);
  const dealt = shares.map((share) => {
    const { rank, reads } = share;
    const own = segmentOf.get(rank) ?? null;
    const { host } = memberOf.get(rank)!;
    const identities = identitiesOf.get(host)!;
    return {
      rank,
      manifest: shareManifest(table, share, { host, identities, segment: own }),
      segment: own?.path ?? null,
      reads: reads.map(({ file, ranges }) => {
        return { path: index.files[file]!.path, identity: identities[file]!, ranges };
      }),
    };
  });
  return { shares: dealt, segments, reused };
}

/** Throws a `CheckpointError` if no rank is on the device. */
function rankOnDevice(device: string, ranks: readonly LoadingRank[]): number {
  const found = ranks.find(({ deviceUuid }) => deviceUuid === device);
  if (found !== undefined) return found.rank;
  throw new CheckpointError(
    `its tensors are in the memory of device ${device}, on which no rank is: add the instance of an engine there, or publish without on_device`,
  );
}

/**
 * Assigns as {@link assignFiles}. For an index that shares its columns with the one before (`LastOpened`), whose tensors are all
 * used where they are, and the same ranks, the shares share their columns too: a publisher's versions lie in other files only.
 */
export class FileAssigner {
  #last: {
    readonly index: CheckpointIndex;
    readonly key: string;
    readonly assigned: FileAssignments;
  } | null = null;

  /** Throws as {@link assignFiles}. */
  assign(order: Parameters<typeof assignFiles>[0]): FileAssignments {
    const { index, ranks } = order;
    const key = JSON.stringify([ranks, index.files.map(({ bytes }) => bytes)]);
    const isInPlace = index.files.every(({ inSharedMemory }) => inSharedMemory);
    const last = this.#last;
    if (isInPlace && last?.index.names === index.names && last.key === key)
      return inOtherFiles(last.assigned, last.index, order);
    const assigned = assignFiles(order);
    this.#last = isInPlace ? { index, key, assigned } : null;
    return assigned;
  }
}

/** `before`: the index that was assigned. */
function inOtherFiles(
  assigned: FileAssignments,
  before: CheckpointIndex,
  { checkpoint, index, ranks, identitiesOf }: Parameters<typeof assignFiles>[0],
): FileAssignments {
  const fileOf = new Map(before.files.map(({ path }, file) => [path, file]));
  const hostOf = new Map(ranks.map(({ rank, host }) => [rank, host]));
  const shares = assigned.shares.map((share) => {
    const identities = identitiesOf.get(hostOf.get(share.rank)!)!;
    const segments = share.manifest.segments.map((segment) => {
      const file = fileOf.get(segmentFile(segment.path))!;
      return { ...segment, path: adoptedSegment(index.files[file]!.path, identities[file]!) };
    });
    return { ...share, manifest: { ...share.manifest, checkpoint, segments } };
  });
  return { ...assigned, shares };
}

function shareManifest(
  index: Manifest,
  { rank, rows, placeOf, offsets, adopted }: LoadShare,
  { host, identities, segment }: Home,
): Manifest {
  const own = segment === null ? [] : [segment];
  const files = adopted.map((file) => ({
    path: adoptedSegment(index.segments[file]!.path, identities[file]!),
    bytes: index.segments[file]!.bytes,
    host,
    rank,
  }));
  return {
    ...selectRows(index, rows),
    segments: [...own, ...files],
    segmentOf: placeOf.map((place) => (place === 0 ? 0 : own.length + place - 1)),
    offsets,
  };
}

/** With its files for segments, and digests of 0. */
function asManifest(checkpoint: string, index: CheckpointIndex): Manifest {
  const { files, fileOf, ...columns } = index;
  const segments = files.map(({ path, bytes }) => ({ path, bytes, host: '', rank: 0 }));
  const digests = new BigUint64Array(index.names.length);
  return { checkpoint, ...columns, segments, segmentOf: fileOf, digests };
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
