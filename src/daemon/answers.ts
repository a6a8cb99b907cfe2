import type { UpdateReport } from '../actors/protocol/update-values.ts';
import { summarize } from '../observe/summary.ts';
import { apiVersion } from './api-version.ts';
import type { Service } from './service.ts';
import type { UpdateView } from './updates.ts';
import { toWireNames } from './wire-names.ts';

/** Answers of the daemon as schemas.ts describes them. */

export function updateAnswerOf({ report, ...view }: UpdateView): unknown {
  return toWireNames({ ...view, report: report === null ? null : reportOf(report) });
}

/** Timelines stay behind: they are as large as a plan has buckets. */
function reportOf(report: UpdateReport): object {
  const { checkpoint, digest, epoch } = report;
  return { checkpoint, digest, epoch, ...summarize(report) };
}

export interface DaemonFacts {
  readonly version: string;
  readonly startedAt: string;
}

export async function statusAnswerOf(
  service: Service,
  { version, startedAt }: DaemonFacts,
): Promise<unknown> {
  const { state, restarts, reasons, instances, checkpoints, ranks, spareBytes } = await service.status();
  const running = service.updates.views().filter((update) => update.state === 'running');
  const daemon = {
    version,
    api: apiVersion,
    pid: process.pid,
    startedAt,
    state,
    restarts,
    sharedDirectory: service.shared.path,
  };
  const ready = reasons.length === 0;
  return {
    ...(toWireNames({ daemon, ready, reasons, instances, checkpoints, ranks, spareBytes }) as object),
    updates: running.map(updateAnswerOf),
  };
}
