import { type Cuts, isKept, WHOLE } from '../checkpoint/cuts.ts';
import { isOnDevice } from '../checkpoint/file-identity.ts';
import type { Manifest } from '../checkpoint/manifest.ts';
import { quoted } from '../checkpoint/printable.ts';
import { sentBytes } from './kept-parts.ts';
import type { PlanRank } from './plan.ts';

/** What a rank is sent of a checkpoint. */
export interface Share {
  readonly sent: Cuts;
  readonly bytes: number;
  /** As which many they load its link: short rows take as long as those of {@link leastRowBytes}. */
  readonly linkBytes: number;
  /** Tensors of which something is sent: each is a copy. */
  readonly copies: number;
  /** Nothing is cut, and nothing left out. */
  readonly isAll: boolean;
  /** Those of the manifest that it has to read. */
  readonly segments: ReadonlySet<number>;
}

/** What was seen in a rank's update by whole tensors; null where too little was moved. */
export interface UpdateRates {
  /** From host memory, in bytes per millisecond. */
  readonly upload: number | null;
  /** From other ranks, in bytes per millisecond. */
  readonly broadcast: number | null;
  /** What the engine worker takes for a tensor, in milliseconds, while nobody watches what its model reads. */
  readonly tensor: number | null;
}

export const noRates: UpdateRates = { upload: null, broadcast: null, tensor: null };

/** The update by whole tensors that there would be instead. */
export interface WholeAlternative {
  /** Ranks that upload in turns, and broadcast to each other. */
  readonly sharing: number;
  /** Of the slowest. */
  readonly rates: UpdateRates;
}

/** Uploads in rows of this many bytes are as fast as in one piece; shorter rows were not measured (bench/results/cuda-device.md). */
const leastRowBytes = 256;
/** What a copy takes beside its bytes: pieces of 1 MiB go at 47.3 GB/s where long ones go at 54.7 (bench/results/cuda-device.md). */
const copyMilliseconds = 0.003;
/** How much of an upload's time a broadcast of as many bytes takes, where it was not measured. */
const usualBroadcast = 0.6;
/**
 * By how much longer an engine worker takes for a tensor of which it gets a part: all that the model reads is watched then
 * (bench/results/engine-loader.md).
 */
export const watchedReads = 1.6;
/** Whole tensors have a stage more, in which each rank waits for all others: they have to be better by so much. */
export const wholeMargin = 1.25;

export function shareOf(manifest: Manifest, sent: Cuts): Share {
  const { names, segmentOf } = manifest;
  const segments = new Set<number>();
  let [bytes, linkBytes, copies, last] = [0, 0, 0, -1];
  let isAll = true;
  for (let row = 0; row < names.length; row += 1) {
    if (sent.dims[row] !== WHOLE) isAll = false;
    if (!isKept(sent, row)) continue;
    const own = sentBytes(manifest, row, sent);
    bytes += own;
    linkBytes += Math.max(own, rowsOf(manifest, row, sent) * leastRowBytes);
    copies += 1;
    if (segmentOf[row] === last) continue;
    last = segmentOf[row]!;
    segments.add(last);
  }
  return { sent, bytes, linkBytes, copies, isAll, segments };
}

/** Runs of bytes that are apart in the tensor; 0 for one. */
function rowsOf({ shapeStarts, dimensions }: Manifest, row: number, { dims }: Cuts): number {
  const dim = dims[row]!;
  if (dim === WHOLE || dim === 0) return 0;
  let rows = 1;
  for (let axis = 0; axis < dim; axis += 1) rows *= dimensions[shapeStarts[row]! + axis]!;
  return rows === 1 ? 0 : rows;
}

/**
 * For how many tensors the slowest worker of an instance takes time, if each is announced only those of the whole tensors that it is
 * sent something of by `shares`. All that its model reads is watched then, so that it is not less wherever most are announced.
 */
export function tensorsIfSpared(shares: readonly Pick<Share, 'copies'>[]): number {
  return watchedReads * shares.reduce((most, { copies }) => Math.max(most, copies), 0);
}

/**
 * How long an update takes by parts and by whole tensors, in bytes that a link uploads in that time: as long as the longest of its
 * stages, which overlap. Of parts each rank uploads its own; whole tensors are uploaded by all in turns, and each then gets all
 * over its link to the others. Engine workers take one tensor after the other, of parts only those that they keep something of,
 * and of whole tensors too where that spares them time.
 */
export function costsOf(
  { bytes }: Pick<Manifest, 'bytes'>,
  shares: readonly Pick<Share, 'linkBytes' | 'copies'>[],
  { sharing, rates: { upload, broadcast, tensor } }: WholeAlternative,
): { readonly parts: readonly number[]; readonly whole: number } {
  const all = bytes.reduce((sum, size) => sum + size, 0);
  const perCopy = upload === null ? 0 : copyMilliseconds * upload;
  const relative = upload === null || broadcast === null ? usualBroadcast : upload / broadcast;
  const perTensor = upload === null || tensor === null ? 0 : tensor * upload;
  const announced = Math.min(bytes.length, tensorsIfSpared(shares));
  return {
    parts: shares.map(({ linkBytes, copies }) => {
      return Math.max(linkBytes + copies * perCopy, copies * perTensor * watchedReads);
    }),
    whole: Math.max((all + bytes.length * perCopy) / sharing, all * relative, announced * perTensor),
  };
}

/**
 * Why an instance is not updated by parts, although each of its ranks knows what its worker keeps; null if nothing is in the
 * way. `shares` goes with `ranks`.
 */
export function whyNotParts(
  manifest: Manifest,
  ranks: readonly Pick<PlanRank, 'rank' | 'host'>[],
  shares: readonly Share[],
  alternative: WholeAlternative,
): string | null {
  if (shares.every(({ isAll }) => isAll)) return 'each of its engine workers keeps all tensors whole';
  return whyLacking(manifest, ranks, shares) ?? whySlower(manifest, ranks, shares, alternative);
}

function whyLacking(
  { names, segments, segmentOf }: Manifest,
  ranks: readonly Pick<PlanRank, 'rank' | 'host'>[],
  shares: readonly Share[],
): string | null {
  for (const [member, { rank, host }] of ranks.entries()) {
    const share = shares[member]!;
    for (const index of share.segments) {
      const segment = segments[index]!;
      const isOther = isOnDevice(segment.path) && segment.rank !== rank;
      if (segment.host === host && segment.lost !== true && !isOther) continue;
      const tensor = names[segmentOf.findIndex((of, row) => of === index && isKept(share.sent, row))]!;
      if (isOther)
        return `tensor ${quoted(tensor)}, of which rank ${rank} needs a part, is in the memory of the device of rank ${segment.rank}`;
      return `tensor ${quoted(tensor)}, of which rank ${rank} needs a part, lies on host ${segment.host} and not on ${host}`;
    }
  }
  return null;
}

function whySlower(
  manifest: Manifest,
  ranks: readonly Pick<PlanRank, 'rank'>[],
  shares: readonly Share[],
  alternative: WholeAlternative,
): string | null {
  const { parts, whole } = costsOf(manifest, shares, alternative);
  const most = parts.reduce((best, cost, member) => (cost > parts[best]! ? member : best), 0);
  if (parts[most]! <= whole * wholeMargin) return null;
  const all = manifest.bytes.reduce((sum, size) => sum + size, 0);
  const percent = (value: number) => `${Math.round((value / all) * 100)} %`;
  const { bytes, copies } = shares[most]!;
  return (
    `rank ${ranks[most]!.rank} needs ${percent(bytes)} of the bytes, in ${copies} tensors, which take it and its worker as long as ${percent(parts[most]!)}; ` +
    `whole tensors, which ${alternative.sharing} ranks upload in turns and broadcast to each other, take as long as ${percent(whole)}`
  );
}
