import type { EngineClient } from '../../engines/engine-client.ts';
import type { PlannerPorts } from '../planner/planner.ts';
import type { InstanceOptions } from '../protocol/instance-options.ts';

/** What the supervisor may do to the world. */
export interface SupervisorPorts extends PlannerPorts {
  /** Starts the process of one rank of an instance. It reports with `rank-ready` when it is up. */
  launchRank(rank: number, instance: InstanceOptions): LaunchedRank;
  engineClient(instance: InstanceOptions): EngineClient;
  /** With the rank behind it, what the segments of one set are called. */
  segmentName(set: number): string;
}

export interface LaunchedRank {
  /** Resolves when the process is gone, with how it ended: `exit code 1`, `SIGKILL`. */
  readonly exited: Promise<string>;
  /** Asks the process to end, and ends it if it does not. */
  stop(): Promise<void>;
}
