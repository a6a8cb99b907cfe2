import { writeFileSync } from 'node:fs';
import type { UpdateReport } from '../../src/index.ts';
import { chromeTrace, drawTimeline, overlap } from '../../src/observe/timeline.ts';
import { packageRoot } from '../../src/package-root.ts';
import { slotMemory } from '../../src/plan/plan.ts';
import { median } from '../median.ts';
import type { Figure } from '../report.ts';
import type { MeasuredUpdate } from './measured-update.ts';

const mebibyte = 2 ** 20;

const phases = {
  healthy: 'until the engine is known to be healthy',
  opened: 'then until it is asked to update',
  begun: 'then until the first upload',
  streamed: 'first upload to last answer',
  finished: 'then until the update is over',
  total: 'all',
  reload: 'one bucket, from asking the worker to its answer',
  load: 'of which its model loads',
} as const;

export function medianOf(
  updates: readonly MeasuredUpdate[],
  pick: (update: MeasuredUpdate) => number,
): number {
  return median(updates.map(pick));
}

/** What part of the links' limit is wanted, if any. */
interface LimitBounds {
  readonly streaming?: number;
  /** Of the update from the call to the answer. */
  readonly whole?: number;
}

const atLeast = (bound: number | undefined) => (bound === undefined ? {} : { atLeast: bound });

/** The figures of one run of the benchmark, which are printed as they are added, and its timelines. */
export class GpuFigures {
  readonly figures: Figure[] = [];
  /** Markdown paragraphs. */
  readonly notes: string[] = [];

  add(name: string, value: number, unit: string, bound: Pick<Figure, 'atLeast' | 'atMost'> = {}): void {
    this.figures.push({ name, value, unit, ...bound });
    console.log(`${name.padEnd(80)} ${value.toFixed(3).padStart(10)} ${unit}`);
  }

  /** Adds the rates of updates compared with the limit of the link, or of all links together. */
  addAgainstLimit(name: string, updates: readonly MeasuredUpdate[], bounds: LimitBounds): void {
    const [{ report }] = updates as [MeasuredUpdate];
    const rate = ({ report: { bytes, streamSeconds } }: MeasuredUpdate) => bytes / streamSeconds;
    const limit = medianOf(updates, (one) => one.limit);
    const streaming = medianOf(updates, (one) => rate(one) / one.limit);
    this.add(`${name}: pinned H2D`, limit / 1e9, 'GB/s');
    this.add(`${name}: streaming`, medianOf(updates, rate) / 1e9, 'GB/s');
    this.add(`${name}: streaming / pinned H2D`, streaming, '', atLeast(bounds.streaming));
    const whole = (one: MeasuredUpdate) => one.report.bytes / (one.total / 1_000) / one.limit;
    this.add(`${name}: whole update / pinned H2D`, medianOf(updates, whole), '', atLeast(bounds.whole));
    const slots = slotMemory(report);
    this.add(`${name}: slots together`, slots / mebibyte, 'MiB', { atMost: 1024 });
    this.add(`${name}: buckets`, report.buckets, '');
    this.addPhases(name, updates);
  }

  addPhases(name: string, updates: readonly MeasuredUpdate[]): void {
    for (const [phase, text] of Object.entries(phases)) {
      const milliseconds = medianOf(updates, (one) => one[phase as keyof typeof phases]);
      this.add(`${name}: ${text}`, milliseconds, 'ms');
    }
  }

  /** Writes the Chrome trace of an update to bench/results, and adds its timeline to the notes. */
  keepTimeline(name: string, { timelines }: UpdateReport): void {
    const trace = new URL(`bench/results/gpu-${name}.trace.json`, packageRoot);
    writeFileSync(trace, `${JSON.stringify(chromeTrace(timelines))}\n`);
    const picture = drawTimeline(timelines, 100);
    const shared = (overlap(timelines) * 100).toFixed(0);
    this.notes.push(`The last update of "${name}"; ${shared} % of the time two stages or more were at work:`);
    this.notes.push(`\`\`\`\n${picture}\n\`\`\``);
    console.log(picture);
  }
}
