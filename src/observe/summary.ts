import type { InstanceReport, UpdateReport } from '../actors/protocol/update-values.ts';
import { overlap, stageSeconds } from './timeline.ts';

/** The result of an update, for people and scripts. */
export interface Summary {
  /** `checkpoint@digest`. */
  readonly version: string;
  readonly mode: 'pipelined' | 'serial';
  /** Ranks that went on serially from that bucket on, because device memory ran short in the middle of the update. */
  readonly serialFrom: readonly { readonly rank: number; readonly bucket: number }[];
  readonly ranks: number;
  readonly tensors: number;
  readonly bytes: number;
  /** Bytes that ranks received from other hosts. */
  readonly receivedBytes: number;
  /** What came to the device of each rank, from host memory and from other ranks. */
  readonly links: UpdateReport['links'];
  /** Of these, over TCP, and why not over RDMA: of the rank from which most came so. Null if none came so. */
  readonly overTcp: { readonly bytes: number; readonly from: number; readonly why: string | null } | null;
  readonly buckets: number;
  /** Duration of the update. */
  readonly seconds: number;
  /** Checkpoint bytes per second of streaming, in 10^9: the rate to each engine worker that gets whole tensors. */
  readonly gbps: number;
  /** Seconds that each stage was busy, averaged over ranks. */
  readonly stages: Readonly<Record<'h2d' | 'broadcast' | 'reload', number>>;
  /** Part of the time in which at least two stages of a rank were busy. */
  readonly overlap: number;
  readonly instances: readonly InstanceReport[];
}

export function summarize(report: UpdateReport): Summary {
  const total = stageSeconds(report.timelines);
  const average = (seconds: number) => round(seconds / Math.max(report.timelines.length, 1), 4);
  return {
    version: `${report.checkpoint}@${report.digest}`,
    mode: report.mode,
    serialFrom: report.serialFrom.map(({ rank, bucket }) => ({ rank, bucket })),
    ranks: report.ranks,
    tensors: report.tensors,
    bytes: report.bytes,
    receivedBytes: report.receivedBytes,
    links: report.links,
    overTcp: overTcp(report),
    buckets: report.buckets,
    seconds: round(report.seconds, 3),
    gbps: report.streamSeconds > 0 ? round(report.bytes / report.streamSeconds / 1e9, 3) : 0,
    stages: { h2d: average(total.h2d), broadcast: average(total.broadcast), reload: average(total.reload) },
    overlap: round(overlap(report.timelines), 3),
    instances: report.instances.map((one) => ({ ...one, seconds: round(one.seconds, 3) })),
  };
}

/** Of an instance's `draftKept`. */
export function draftText(why: string): string {
  return `its draft model has other weights than its target, and drafts worse: ${why}`;
}

function overTcp({ received }: UpdateReport): Summary['overTcp'] {
  const slow = received.filter(({ over }) => over === 'tcp').sort((one, other) => other.bytes - one.bytes);
  const [most] = slow;
  if (most === undefined) return null;
  const bytes = slow.reduce((sum, one) => sum + one.bytes, 0);
  return { bytes, from: most.from, why: most.whyNotRdma };
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
