import { cutAt, partBytes } from '../checkpoint/cuts.ts';
import type { Manifest } from '../checkpoint/manifest.ts';
import { bucketTensors, type Plan } from './plan.ts';

/** What is copied from one segment to a bucket; rectangles are six numbers each, as the addon's `copy` takes them. */
export interface Transfer {
  /** Index into the manifest's segments. */
  readonly segment: number;
  readonly rectangles: Float64Array;
}

/**
 * The copies that bring a bucket from host memory to a slot, for a slot that starts `base` bytes into its buffer.
 * Tensors that lie side by side in the segment as in the slot become one long copy; a part of one is a rectangle.
 */
export function transfersOf(plan: Plan, manifest: Manifest, bucket: number, base: number): Transfer[] {
  const bySegment = new Map<number, number[]>();
  for (let entry = plan.tensorStarts[bucket]!; entry < plan.tensorStarts[bucket + 1]!; entry += 1) {
    const row = plan.tensorOrder[entry]!;
    const bytes = manifest.bytes[row]!;
    if (bytes === 0) continue;
    const segment = manifest.segmentOf[row]!;
    let rectangles = bySegment.get(segment);
    if (rectangles === undefined) {
      rectangles = [];
      bySegment.set(segment, rectangles);
    }
    const destination = base + plan.tensorOffsets[entry]!;
    const cut = plan.cuts && cutAt(plan.cuts, entry);
    if (cut === null) appendRun(rectangles, manifest.offsets[row]!, destination, bytes);
    else {
      const { offset, rowBytes, rows, pitch } = partBytes(manifest, row, cut)!;
      const source = manifest.offsets[row]! + offset;
      if (rows === 1) appendRun(rectangles, source, destination, rowBytes);
      else rectangles.push(source, destination, rowBytes, rows, pitch, rowBytes);
    }
  }
  return [...bySegment].map(([segment, numbers]) => ({ segment, rectangles: Float64Array.from(numbers) }));
}

/** Of the segments that these buckets are uploaded from. */
export function pathsOf(
  plan: Plan,
  { segments, segmentOf }: Pick<Manifest, 'segments' | 'segmentOf'>,
  buckets: Iterable<number>,
): Set<string> {
  const paths = new Set<string>();
  for (const bucket of buckets)
    for (const row of bucketTensors(plan, bucket).rows) paths.add(segments[segmentOf[row]!]!.path);
  return paths;
}

export function rectangleBytes(rectangles: Float64Array): number {
  let bytes = 0;
  for (let at = 0; at < rectangles.length; at += 6) bytes += rectangles[at + 2]! * rectangles[at + 3]!;
  return bytes;
}

/** Adds a rectangle of one row. Alignment gaps are copied along: they are at most 255 bytes. */
function appendRun(rectangles: number[], source: number, destination: number, bytes: number): void {
  const last = rectangles.length - 6;
  if (last >= 0 && rectangles[last + 3] === 1) {
    const gap = source - (rectangles[last]! + rectangles[last + 2]!);
    const sameShift = source - rectangles[last]! === destination - rectangles[last + 1]!;
    if (sameShift && gap >= 0 && gap < 256) {
      const joined = source + bytes - rectangles[last]!;
      rectangles.splice(last + 2, 4, joined, 1, joined, joined);
      return;
    }
  }
  rectangles.push(source, destination, bytes, 1, bytes, bytes);
}
