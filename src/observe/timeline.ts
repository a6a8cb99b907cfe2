import type { RankTimeline } from '../actors/protocol/update-values.ts';

/** The three stages of an update, in the order a bucket goes through them. */
export const stages = ['h2d', 'broadcast', 'reload'] as const;
export type Stage = (typeof stages)[number];

/** A row of a timeline: a stage, or the reads from other hosts that precede the stages of a joining rank. */
type Track = Stage | 'read';

function tracksOf(timelines: readonly RankTimeline[]): readonly Track[] {
  return timelines.some(({ read }) => read.length > 0) ? ['read', ...stages] : stages;
}

/** A span takes three numbers in a timeline's columns: bucket, start, end. */
const numbersPerSpan = 3;

/** How long each stage was busy, in seconds, summed over ranks. */
export function stageSeconds(timelines: readonly RankTimeline[]): Record<Stage, number> {
  const seconds = { h2d: 0, broadcast: 0, reload: 0 };
  for (const timeline of timelines) {
    for (const stage of stages) {
      for (const [, start, end] of spansOf(timeline, stage)) seconds[stage] += (end - start) / 1000;
    }
  }
  return seconds;
}

/**
 * The fraction, in [0, 1], of a rank's busy time in which two or more stages were busy at once; averaged over ranks. 0 for
 * a strictly serial update.
 */
export function overlap(timelines: readonly RankTimeline[]): number {
  if (timelines.length === 0) return 0;
  const ratios = timelines.map((timeline) => {
    const edges = stages.flatMap((stage) => {
      return spansOf(timeline, stage).flatMap(([, start, end]) => [
        { at: start, change: 1 },
        { at: end, change: -1 },
      ]);
    });
    edges.sort((one, other) => one.at - other.at || one.change - other.change);
    let active = 0;
    let busy = 0;
    let shared = 0;
    for (const [index, edge] of edges.entries()) {
      const length = index === 0 ? 0 : edge.at - edges[index - 1]!.at;
      if (active >= 1) busy += length;
      if (active >= 2) shared += length;
      active += edge.change;
    }
    return busy === 0 ? 0 : shared / busy;
  });
  return ratios.reduce((sum, ratio) => sum + ratio, 0) / ratios.length;
}

/**
 * A Chrome trace (the JSON array format, for Perfetto and chrome://tracing): one process per rank, one thread per stage,
 * one complete event per bucket or piece, and an instant event where device memory ran short. Times in the trace are microseconds since the first event.
 */
export function chromeTrace(timelines: readonly RankTimeline[]): object[] {
  const zero = startOf(timelines);
  const tracks = tracksOf(timelines);
  const events: object[] = [];
  for (const timeline of timelines) {
    const pid = timeline.rank;
    events.push({ ph: 'M', name: 'process_name', pid, args: { name: `rank ${pid}` } });
    const { serialFrom } = timeline;
    if (serialFrom !== null) {
      const name = `device memory ran short: serial from bucket ${serialFrom.bucket} on`;
      events.push({ ph: 'i', s: 'p', name, pid, tid: 0, ts: (serialFrom.at - zero) * 1000 });
    }
    for (const [tid, stage] of tracks.entries()) {
      events.push({ ph: 'M', name: 'thread_name', pid, tid, args: { name: stage } });
      for (const [bucket, start, end] of spansOf(timeline, stage)) {
        const ts = (start - zero) * 1000;
        events.push({
          ph: 'X',
          name: stage === 'read' ? `piece ${bucket}` : `bucket ${bucket}`,
          cat: stage,
          pid,
          tid,
          ts,
          dur: (end - start) * 1000,
          args: { bucket },
        });
      }
    }
  }
  return events;
}

/** The timeline as text, `width` columns wide: one row per stage of each rank, filled where the stage was busy. */
export function drawTimeline(timelines: readonly RankTimeline[], width: number): string {
  const zero = startOf(timelines);
  const tracks = tracksOf(timelines);
  const end = Math.max(
    ...timelines.flatMap((timeline) =>
      tracks.flatMap((stage) => spansOf(timeline, stage).map((span) => span[2])),
    ),
  );
  const scale = width / Math.max(end - zero, 1e-6);
  const lines = timelines.flatMap((timeline) =>
    tracks.map((stage, index) => {
      const label = index === 0 ? `rank ${timeline.rank}` : '';
      const from = index === 0 && timeline.serialFrom !== null ? timeline.serialFrom.bucket : null;
      const short = from === null ? '' : ` serial from bucket ${from} on`;
      return `${label.padEnd(9)}${stage.padEnd(10)}${drawRow(timeline, stage, zero, scale, width)}${short}`;
    }),
  );
  const milliseconds = `${(end - zero).toFixed(0)} ms`;
  return [...lines, `${' '.repeat(19)}0${milliseconds.padStart(width - 1)}`].join('\n');
}

/** The shade of each column shows the fraction of its time in which the stage was busy. */
function drawRow(timeline: RankTimeline, stage: Track, zero: number, scale: number, width: number): string {
  const filled = new Float64Array(width);
  for (const [, start, end] of spansOf(timeline, stage)) {
    const from = (start - zero) * scale;
    const to = (end - zero) * scale;
    for (let column = Math.floor(from); column < Math.min(width, Math.ceil(to)); column += 1) {
      filled[column]! += Math.min(to, column + 1) - Math.max(from, column);
    }
  }
  const shades = [' ', '░', '▒', '▓', '█'];
  return Array.from(filled, (part) => shades[Math.min(4, Math.ceil(part * 4))]).join('');
}

function spansOf(timeline: RankTimeline, stage: Track): [bucket: number, start: number, end: number][] {
  const column = timeline[stage];
  return Array.from({ length: column.length / numbersPerSpan }, (_, span) => {
    const at = span * numbersPerSpan;
    return [column[at]!, column[at + 1]!, column[at + 2]!];
  });
}

function startOf(timelines: readonly RankTimeline[]): number {
  const starts = timelines.flatMap((timeline) =>
    tracksOf(timelines).flatMap((stage) => spansOf(timeline, stage).map((span) => span[1])),
  );
  return starts.length === 0 ? 0 : Math.min(...starts);
}
