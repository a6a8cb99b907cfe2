import type { EngineClient } from '../../engines/engine-client.ts';
import type { PlannerPorts } from '../planner/planner.ts';
import type { Instance, Worker } from '../protocol/instance.ts';
import type { InstanceStatus } from '../protocol/status-values.ts';
import type { HostPosition } from './host-positions.ts';

/** The supervisor's access to the world. */
export interface SupervisorPorts extends PlannerPorts {
  /**
   * Starts the process of a rank on the host of its worker, which sends `rank-ready` when it owns its device. A process that has
   * outlived the supervisor which started it is not started again: it introduces itself to this one.
   */
  launchRank(worker: Worker, instance: Instance, position: HostPosition): LaunchedRank;
  /** Connects to nothing yet. Throws `UsageError` for an invalid endpoint or API key. */
  engineClient(instance: Instance): EngineClient;
  /** What has become of an instance, before its engine can have heard of it; `mayStillPause`: as it was asked to once. */
  noteInstance(instance: InstanceStatus, mayStillPause: boolean): void;
  /** Name of the segments of set number `set`, to which each rank's number is appended. */
  segmentName(set: number): string;
  readonly memory: SupervisorMemory;
}

/** Documents that outlive the supervisor's process, for the one that takes its place. */
export interface SupervisorMemory {
  /** How many supervisors this cluster has had before. */
  readonly incarnation: number;
  /** What the last one has written and not removed, by name. */
  recall(): ReadonlyMap<string, unknown>;
  /** Writes all of a document or nothing. Throws if there is no room. */
  write(name: string, document: unknown): void;
  /** The same of what may be large: this process goes on meanwhile. */
  writeLarge(name: string, document: unknown): Promise<void>;
  remove(name: string): void;
}

export interface Removal {
  /** No other rank of the cluster is placed on its host, whether that runs now or not: the host's memory may go, too. */
  readonly isHostFree: boolean;
}

export interface LaunchedRank {
  /** Resolves when the process has ended, with how: `exit code 1`, `SIGKILL`. Never rejects. */
  readonly exited: Promise<string>;
  /** It has outlived an earlier supervisor: it owns its device, and has only to say so. */
  readonly isSurvivor: boolean;
  /** Resolves if such a process is found later: the agent of its host knows. */
  readonly adopted?: Promise<void>;
  /** What may keep it from becoming ready, for the error if it does not. */
  readonly hint?: string | undefined;
  /**
   * Asks the process to end, and kills it if it does not within the grace time; without one, within the time that it may
   * need to release all it has. Called again, the shortest of the times counts. `removal`: it is no rank of the cluster any
   * more; then nobody waits for a host that is cut off, whose agent ends the process when it comes back.
   */
  stop(graceMilliseconds?: number, removal?: Removal): Promise<void>;
}
