/** Start and end, in milliseconds of the host's monotonic clock. */
export type Span = readonly [from: number, to: number];

/** Of three numbers each: a bucket, start and end. */
export function spansIn(timeline: Float64Array): Span[] {
  return Array.from({ length: timeline.length / 3 }, (_, at) => [
    timeline[3 * at + 1]!,
    timeline[3 * at + 2]!,
  ]);
}

/** Milliseconds of a span in which at least one of several was under way. */
export function union(spans: readonly Span[], [start, end]: Span): number {
  let covered = 0;
  let until = start;
  for (const [from, to] of [...spans].sort(([one], [other]) => one - other)) {
    const [first, last] = [Math.max(from, until), Math.min(to, end)];
    if (last > first) covered += last - first;
    until = Math.max(until, last);
  }
  return covered;
}
