import type { Cluster, UpdateOptions, UpdateReport } from '../../src/index.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import type { PythonEngine } from '../../test/python/python-engine.ts';
import { median } from '../median.ts';
import type { LinkLimit } from './link-limit.ts';

/** An update and the durations of its phases, in milliseconds. */
export interface MeasuredUpdate {
  readonly report: UpdateReport;
  /** Bytes per second: the mean of the link limit before and after the update. */
  readonly limit: number;
  /** From the call until the health check of the engine. */
  readonly healthy: number;
  /** From then until the engine receives the update call: prepare, plan, open. */
  readonly opened: number;
  /** From then until the first upload; negative if that came first. */
  readonly begun: number;
  readonly streamed: number;
  /** From the last bucket until the call returns: release, post-hook, the engine's answer, verification. */
  readonly finished: number;
  /** From the call until it returns. */
  readonly total: number;
  /** Medians over buckets: from the request to the worker until its answer, and the part in which its model loads. */
  readonly reload: number;
  readonly load: number;
}

export interface Subject {
  readonly cluster: Cluster;
  readonly engines: readonly PythonEngine[];
}

export async function measureUpdate(
  { cluster, engines }: Subject,
  name: string,
  settings: UpdateOptions,
  link: LinkLimit | null,
): Promise<MeasuredUpdate> {
  const before = link === null ? 0 : await link.measure();
  const calledAt = systemClock.now();
  const report = await cluster.update(name, settings);
  const returnedAt = systemClock.now();
  const after = link === null ? 0 : await link.measure();
  const healthyAt = Math.max(...engines.map(({ times }) => times.health));
  const askedAt = Math.min(...engines.map(({ times }) => times.update));
  const firstUploadAt = Math.min(...report.timelines.map(({ h2d }) => h2d[1] ?? Number.POSITIVE_INFINITY));
  const lastReloadAt = Math.max(...report.timelines.map(({ reload }) => reload.at(-1)!));
  const [{ reload }] = report.timelines as [UpdateReport['timelines'][0]];
  const reloads = Array.from(
    { length: reload.length / 3 },
    (_, at) => reload[at * 3 + 2]! - reload[at * 3 + 1]!,
  );
  const loads = (engines[0]!.ends[0]!.loads ?? []).map(([start, end]) => end - start);
  return {
    report,
    limit: (before + after) / 2,
    healthy: healthyAt - calledAt,
    opened: askedAt - healthyAt,
    begun: firstUploadAt - askedAt,
    streamed: lastReloadAt - firstUploadAt,
    finished: returnedAt - lastReloadAt,
    total: returnedAt - calledAt,
    reload: median(reloads),
    load: median(loads),
  };
}
