import type { UpdateReport } from '../actors/protocol/update-values.ts';
import { overlap, stageSeconds } from '../observe/timeline.ts';

/** An update as people and scripts read it. */
export interface Summary {
  /** `checkpoint@digest`. */
  readonly version: string;
  readonly mode: 'pipelined' | 'serial';
  readonly ranks: number;
  readonly tensors: number;
  readonly bytes: number;
  /** Of them, what ranks received from other hosts. */
  readonly receivedBytes: number;
  readonly buckets: number;
  /** From prepare to commit. */
  readonly seconds: number;
  /** Checkpoint bytes a second while they streamed, in 10^9 bytes: what each engine worker got. */
  readonly gbps: number;
  /** Seconds that each stage was at work, averaged over ranks. */
  readonly stages: Readonly<Record<'h2d' | 'broadcast' | 'reload', number>>;
  /** Part of the time in which a rank had at least two stages at work. */
  readonly overlap: number;
  readonly verified: boolean | null;
}

export function summarize(report: UpdateReport): Summary {
  const total = stageSeconds(report.timelines);
  const average = (seconds: number) => round(seconds / Math.max(report.timelines.length, 1), 4);
  return {
    version: `${report.checkpoint}@${report.digest}`,
    mode: report.mode,
    ranks: report.ranks,
    tensors: report.tensors,
    bytes: report.bytes,
    receivedBytes: report.receivedBytes,
    buckets: report.buckets,
    seconds: round(report.seconds, 3),
    gbps: report.streamSeconds > 0 ? round(report.bytes / report.streamSeconds / 1e9, 3) : 0,
    stages: { h2d: average(total.h2d), broadcast: average(total.broadcast), reload: average(total.reload) },
    overlap: round(overlap(report.timelines), 3),
    verified: report.verified,
  };
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
