import type { Cluster, UpdateOptions, UpdateReport } from '../../src/index.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import type { PythonEngine } from '../../test/python/python-engine.ts';
import { median } from '../median.ts';
import type { LinkLimit } from './link-limit.ts';

/** An update, and what its parts took, in milliseconds. */
export interface MeasuredUpdate {
  readonly report: UpdateReport;
  /** Bytes a second: the mean of the limit before the update and after it. */
  readonly limit: number;
  /** From the call until the engine has been asked for its health. */
  readonly healthy: number;
  /** From then until the engine is asked to update: prepare, plan, open. */
  readonly opened: number;
  /** From then until the first upload; below zero where that came first. */
  readonly begun: number;
  readonly streamed: number;
  /** From the last bucket until the call returns: release, post-hook, the engine's answer, verification. */
  readonly finished: number;
  /** From the call until it returns. */
  readonly total: number;
  /** A bucket, from asking the worker until it has answered; the part in which its model loads; medians. */
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
