import { strict as assert } from 'node:assert';
import { isOnDevice, segmentFile } from '../checkpoint/file-identity.ts';
import type { Manifest, SegmentInfo } from '../checkpoint/manifest.ts';
import { quoted } from '../checkpoint/printable.ts';
import { CheckpointError } from '../errors.ts';
import { fusedSlices } from './fused-slices.ts';
import type { FusedUnits } from './fused-tensors.ts';
import { assignReceivers, type Topology } from './receivers.ts';
import type { Slices } from './slices.ts';

/** A rank that may send or receive. */
export interface FabricRank {
  readonly rank: number;
  readonly host: string;
  /** Where its host's segments lie. */
  readonly directory: string;
  /** The NICs that it uses; the first one counts as its NIC. */
  readonly nics: readonly string[];
}

/** A slice that a rank received earlier and still holds. */
export interface Copy {
  readonly slice: number;
  readonly path: string;
  readonly host: string;
  readonly rank: number;
}

/** A slice to receive. */
export interface Mirror {
  readonly slice: number;
  /** The rank that receives it. */
  readonly receiver: number;
  /** Where, on the receiver's host; of as many bytes as the slice, and at least one. */
  readonly path: string;
  readonly bytes: number;
}

/** How a group of ranks sees a checkpoint of which a part lies on other hosts. */
export interface Reception {
  /** Rows as in the registered manifest; what lies elsewhere there lies in mirrors and copies here. */
  readonly manifest: Manifest;
  readonly mirrors: readonly Mirror[];
}

/** The manifest with these segments marked as lost. */
export function withLost(manifest: Manifest, lost: readonly Pick<SegmentInfo, 'path' | 'host'>[]): Manifest {
  if (lost.length === 0) return manifest;
  const isLost = ({ path, host }: SegmentInfo) => lost.some((one) => one.path === path && one.host === host);
  const segments = manifest.segments.map((segment) =>
    isLost(segment) ? { ...segment, lost: true } : segment,
  );
  return { ...manifest, segments };
}

interface ReceptionOrder {
  readonly manifest: Manifest;
  readonly slices: Slices;
  /** Tensors that have to be in one bucket, and so within reach of one rank. */
  readonly units: FusedUnits;
  /** The group. */
  readonly ranks: readonly FabricRank[];
  /** Ranks that can be read from; some of every host that holds segments of the registered manifest. */
  readonly sources: readonly FabricRank[];
  readonly copies: readonly Copy[];
  /** Followed by the slice's number: the name of each mirror in its host's directory. */
  readonly mirrorName: string;
}

/** Slices that one rank receives, of this host if one is named. */
interface Parcel {
  readonly slices: readonly number[];
  readonly host: string | null;
}

/**
 * Which slices a group of ranks has to receive, and which rank receives which: those that lie on no host of the group
 * and of which it has no copy, and those that lie on another host of the group than what their tensors are fused with.
 * Receivers are chosen by `assignReceivers`, so that the NICs of both sides are busy. Null when the group has
 * everything.
 *
 * Throws a CheckpointError that names a tensor on a host of which no rank is among `sources`.
 */
export function planReception(order: ReceptionOrder): Reception | null {
  const { manifest, slices, ranks, copies, mirrorName } = order;
  const hosts = new Set(ranks.map(({ host }) => host));
  const copyOf = new Map(copies.filter(({ host }) => hosts.has(host)).map((copy) => [copy.slice, copy]));
  const hostOfSlice = slices.slices.map(({ segment }) => {
    const { host, lost } = manifest.segments[segment]!;
    return lost !== true && hosts.has(host) ? host : null;
  });
  if (parcelsOf(order, hostOfSlice).length === 0) return null;
  const parcels = parcelsOf(
    order,
    hostOfSlice.map((host, slice) => copyOf.get(slice)?.host ?? host),
  );
  const hostOf = new Map(ranks.map(({ rank, host }) => [rank, host]));
  const directoryOf = new Map(ranks.map(({ rank, directory }) => [rank, directory]));
  const mirrors = assign(parcels, order).map(({ slice, receiver }) => ({
    slice,
    receiver,
    path: `${directoryOf.get(receiver)!}/${mirrorName}${slice}`,
    bytes: Math.max(1, slices.slices[slice]!.bytes),
  }));
  const places = new Map<number, SegmentInfo>();
  for (const [slice, { path, host, rank }] of copyOf) {
    places.set(slice, { path, bytes: Math.max(1, slices.slices[slice]!.bytes), host, rank });
  }
  for (const { slice, receiver, path, bytes } of mirrors) {
    places.set(slice, { path, bytes, host: hostOf.get(receiver)!, rank: receiver });
  }
  return { manifest: moveSlices(manifest, slices, places), mirrors };
}

/** `hostOfSlice`: where in the group each slice lies, null for nowhere. */
function parcelsOf({ slices, units }: ReceptionOrder, hostOfSlice: readonly (string | null)[]): Parcel[] {
  const sets = fusedSlices(slices, units);
  const inSets = new Set(sets.flat());
  const alone = [...hostOfSlice.keys()].filter((slice) => hostOfSlice[slice] === null && !inSets.has(slice));
  const together = sets.flatMap((set) => {
    const bytesOn = new Map<string, number>();
    for (const slice of set) {
      const host = hostOfSlice[slice]!;
      if (host !== null) bytesOn.set(host, (bytesOn.get(host) ?? 0) + slices.slices[slice]!.bytes);
    }
    const [host = null] = [...bytesOn.keys()].sort((a, b) => bytesOn.get(b)! - bytesOn.get(a)!);
    const missing = set.filter((slice) => host === null || hostOfSlice[slice] !== host);
    return missing.length === 0 ? [] : [{ slices: missing, host }];
  });
  return [...alone.map((slice) => ({ slices: [slice], host: null })), ...together];
}

function assign(parcels: readonly Parcel[], order: ReceptionOrder): { slice: number; receiver: number }[] {
  const { slices, ranks, sources } = order;
  const serverOf = serversOfSlices(order);
  const weighed = parcels.map((parcel) => ({
    ...parcel,
    owner: parcel.slices.map(serverOf)[0]!,
    bytes: parcel.slices.reduce((sum, slice) => sum + slices.slices[slice]!.bytes, 0),
  }));
  const free = weighed.filter(({ host }) => host === null);
  const dealt = assignReceivers(free, topologyOf(ranks), topologyOf(sources));
  const received = new Map(ranks.map(({ rank }) => [rank, 0]));
  for (const { receiver, bucket } of dealt) received.set(receiver, received.get(receiver)! + bucket.bytes);
  for (const bucket of weighed.filter(({ host }) => host !== null)) {
    const near = ranks.filter(({ host }) => host === bucket.host).map(({ rank }) => rank);
    const receiver = near.reduce((least, rank) =>
      received.get(rank)! < received.get(least)! ? rank : least,
    );
    received.set(receiver, received.get(receiver)! + bucket.bytes);
    dealt.push({ receiver, bucket });
  }
  return dealt.flatMap(({ receiver, bucket }) => bucket.slices.map((slice) => ({ slice, receiver })));
}

/** Finds the rank that a slice is read from; throws a CheckpointError that names a tensor if there is none. */
function serversOfSlices({ manifest, slices, sources, copies }: ReceptionOrder): (slice: number) => number {
  const serverOf = serversAmong(sources);
  const copiedBy = new Map<number, number>();
  for (const copy of copies) {
    const server = serverOf(copy);
    if (server !== null && !copiedBy.has(copy.slice)) copiedBy.set(copy.slice, server);
  }
  return (slice) => {
    const { segment } = slices.slices[slice]!;
    const held = manifest.segments[segment]!;
    if (isOnDevice(held.path))
      throw new CheckpointError(
        `tensor ${quoted(manifest.names[slices.sliceOf.indexOf(slice)]!)} is in the memory of the device of rank ${held.rank} on host ${quoted(held.host)}, which other hosts cannot read: publish without on_device`,
      );
    const owner = serverOf(manifest.segments[segment]!) ?? copiedBy.get(slice);
    if (owner !== undefined) return owner;
    const name = manifest.names[slices.sliceOf.indexOf(slice)]!;
    const { host, path, lost } = manifest.segments[segment]!;
    const why = lost ? 'which lost its memory' : 'where no rank can be read from';
    throw new CheckpointError(
      `tensor ${quoted(name)} lies in ${quoted(segmentFile(path))} on host ${quoted(host)}, ${why}, and no other host has a copy`,
    );
  };
}

/** Finds the rank through which a segment or copy is read: its own, or another one of its host; null for none. */
export function serversAmong(
  sources: readonly Pick<FabricRank, 'rank' | 'host'>[],
): (holder: Pick<SegmentInfo, 'rank' | 'host' | 'lost'>) => number | null {
  const ranksOf = new Map<string, number[]>();
  for (const { rank, host } of sources) {
    const ranks = ranksOf.get(host);
    if (ranks === undefined) ranksOf.set(host, [rank]);
    else ranks.push(rank);
  }
  return ({ rank, host, lost }) => {
    const near = lost ? [] : (ranksOf.get(host) ?? []);
    return near.includes(rank) ? rank : (near[0] ?? null);
  };
}

/** A slice as one rank can serve it: where it begins in a segment of its host. */
export interface ServedSlice {
  readonly slice: number;
  readonly path: string;
  readonly offset: number;
}

/** What each of the sources can serve: segments of the registered manifest, and copies. */
export function servedBy(
  manifest: Manifest,
  { slices }: Slices,
  copies: readonly Copy[],
  sources: readonly FabricRank[],
): ReadonlyMap<number, ServedSlice[]> {
  const serverOf = serversAmong(sources);
  const served = new Map<number, ServedSlice[]>();
  const add = (rank: number | null, slice: ServedSlice) => {
    if (rank === null) return;
    const list = served.get(rank);
    if (list === undefined) served.set(rank, [slice]);
    else list.push(slice);
  };
  for (const [slice, { segment, offset }] of slices.entries()) {
    const held = manifest.segments[segment]!;
    add(serverOf(held), { slice, path: held.path, offset });
  }
  for (const copy of copies) add(serverOf(copy), { slice: copy.slice, path: copy.path, offset: 0 });
  return served;
}

/** Ranks by their first NIC; NICs of the same name on different hosts differ. */
function topologyOf(ranks: readonly FabricRank[]): Topology {
  const topology = new Map<string, number[]>();
  for (const { rank, host, nics } of ranks) {
    const nic = `${host}/${nics[0] ?? ''}`;
    const sharing = topology.get(nic);
    if (sharing === undefined) topology.set(nic, [rank]);
    else sharing.push(rank);
  }
  return topology;
}

/** The same tensors, with some slices in segments of their own. */
function moveSlices(
  manifest: Manifest,
  { slices, sliceOf }: Slices,
  places: ReadonlyMap<number, SegmentInfo>,
): Manifest {
  const segments: SegmentInfo[] = [];
  const movedTo = new Map<number, number>();
  for (const [slice, place] of places) {
    movedTo.set(slice, segments.length);
    segments.push(place);
  }
  const keptAs = new Map<number, number>();
  const segmentOf = new Uint32Array(manifest.segmentOf.length);
  const offsets = Float64Array.from(manifest.offsets);
  for (const [row, slice] of sliceOf.entries()) {
    const moved = movedTo.get(slice);
    if (moved !== undefined) {
      segmentOf[row] = moved;
      offsets[row]! -= slices[slice]!.offset;
      continue;
    }
    const old = manifest.segmentOf[row]!;
    let kept = keptAs.get(old);
    if (kept === undefined) {
      kept = segments.length;
      keptAs.set(old, kept);
      segments.push(manifest.segments[old]!);
    }
    segmentOf[row] = kept;
  }
  assert.ok(segments.length > 0, 'every tensor lies somewhere');
  return { ...manifest, segments, segmentOf, offsets };
}
