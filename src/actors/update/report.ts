import type { RankTimeline, Received, Streamed, UpdateReport } from '../protocol/update-values.ts';
import type { UpdateSpec } from './context.ts';
import type { Installed } from './round.ts';

/** Timelines are a part of the report, which is one message: these bytes of them are a quarter of what it may have. */
const timelineBytes = 4 * 2 ** 20;

export function reportOf(
  { checkpoint: { status } }: UpdateSpec,
  installed: readonly Installed[],
  { instances, seconds }: Pick<UpdateReport, 'instances' | 'seconds'>,
): UpdateReport {
  const plans = installed.flatMap(({ open }) => open.groups.map(({ plan }) => plan));
  const streamed = installed.flatMap((one) => one.streamed);
  const received = receivedFrom(streamed);
  return {
    epoch: Math.max(...installed.map(({ open }) => open.epoch)),
    checkpoint: status.checkpoint,
    digest: status.digest,
    mode: plans.some(({ mode }) => mode === 'serial') ? 'serial' : 'pipelined',
    ranks: streamed.length,
    tensors: status.tensors,
    bytes: status.bytes,
    receivedBytes: received.reduce((sum, { bytes }) => sum + bytes, 0),
    received,
    buckets: Math.max(...plans.map(({ owners }) => owners.length)),
    slots: Math.max(...plans.map(({ slots }) => slots)),
    slotBytes: Math.max(...plans.map(({ slotBytes }) => slotBytes)),
    largeSlotBytes: Math.max(...plans.map(({ largeSlotBytes }) => largeSlotBytes)),
    seconds,
    streamSeconds: streamSeconds(streamed),
    instances: [...instances],
    timelines: firstTimelines(streamed),
  };
}

function receivedFrom(streamed: readonly Streamed[]): Received[] {
  const bytesOf = new Map<number, number>();
  for (const { from, bytes } of streamed.flatMap(({ received }) => received)) {
    bytesOf.set(from, (bytesOf.get(from) ?? 0) + bytes);
  }
  return [...bytesOf].map(([from, bytes]) => ({ from, bytes })).sort((one, other) => one.from - other.from);
}

function firstTimelines(streamed: readonly Streamed[]): RankTimeline[] {
  let bytes = 0;
  const timelines: RankTimeline[] = [];
  for (const { timeline } of streamed) {
    const { read, h2d, broadcast, reload } = timeline;
    for (const column of [read, h2d, broadcast, reload]) bytes += column.byteLength;
    if (bytes > timelineBytes) break;
    timelines.push(timeline);
  }
  return timelines;
}

/** From the first upload to the last acknowledgement. */
function streamSeconds(streamed: readonly Streamed[]): number {
  let start = Number.POSITIVE_INFINITY;
  let end = 0;
  for (const { timeline } of streamed) {
    for (let at = 0; at < timeline.h2d.length; at += 3) start = Math.min(start, timeline.h2d[at + 1]!);
    for (let at = 0; at < timeline.reload.length; at += 3) end = Math.max(end, timeline.reload[at + 2]!);
  }
  return end > start ? (end - start) / 1000 : 0;
}
