import type { Manifest } from '../checkpoint/manifest.ts';
import type { Plan } from './buckets.ts';

/** What is copied from one segment to a bucket; rectangles are six numbers each, as the addon's `copy` takes them. */
export interface Transfer {
  /** Index into the manifest's segments. */
  readonly segment: number;
  readonly rectangles: Float64Array;
}

/**
 * The copies that bring a bucket from host memory to a slot, for a slot that starts `base` bytes into its buffer.
 * Tensors that lie side by side in the segment as in the slot become one long copy.
 */
export function transfersOf(plan: Plan, manifest: Manifest, bucket: number, base: number): Transfer[] {
  const bySegment = new Map<number, number[]>();
  for (let entry = plan.tensorStarts[bucket]!; entry < plan.tensorStarts[bucket + 1]!; entry += 1) {
    const row = plan.tensorOrder[entry]!;
    const bytes = manifest.bytes[row]!;
    if (bytes === 0) continue;
    const segment = manifest.segmentOf[row]!;
    let runs = bySegment.get(segment);
    if (runs === undefined) {
      runs = [];
      bySegment.set(segment, runs);
    }
    appendRun(runs, manifest.offsets[row]!, base + plan.tensorOffsets[entry]!, bytes);
  }
  return [...bySegment].map(([segment, runs]) => ({ segment, rectangles: toRectangles(runs) }));
}

/** Runs are (source, destination, bytes). Alignment gaps are copied along: they are at most 255 bytes. */
function appendRun(runs: number[], source: number, destination: number, bytes: number): void {
  const last = runs.length - 3;
  if (last >= 0) {
    const gap = source - (runs[last]! + runs[last + 2]!);
    const sameShift = source - runs[last]! === destination - runs[last + 1]!;
    if (sameShift && gap >= 0 && gap < 256) {
      runs[last + 2] = source + bytes - runs[last]!;
      return;
    }
  }
  runs.push(source, destination, bytes);
}

function toRectangles(runs: readonly number[]): Float64Array {
  const rectangles = new Float64Array(runs.length * 2);
  for (let run = 0; run * 3 < runs.length; run += 1) {
    const bytes = runs[run * 3 + 2]!;
    rectangles.set([runs[run * 3]!, runs[run * 3 + 1]!, bytes, 1, bytes, bytes], run * 6);
  }
  return rectangles;
}
