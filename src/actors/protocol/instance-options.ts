import type { EngineOptions } from '../../engines/engine-options.ts';

/** One inference server and the ranks on its devices. */
export interface InstanceOptions extends EngineOptions {
  readonly name: string;
  /**
   * The engine's workers, host by host, in the order in which the engine numbers them. An engine of one host has `ranks`,
   * `host` and `devices` in its place.
   */
  readonly workers?: readonly WorkerOptions[];
  /**
   * Its ranks' numbers in the cluster, in the order of the engine's workers. Default: one for each of `devices`, the lowest
   * that are free.
   */
  readonly ranks?: readonly number[];
  /** Host of its ranks: one of `ClusterOptions.hosts`. Default: the host that the cluster starts on. */
  readonly host?: string;
  /**
   * Each worker's device on that host, in their order: its index, or the UUID of a GPU (`GPU-…`, `MIG-…`). Default: what
   * `ClusterOptions.devices` or the host's own says.
   */
  readonly devices?: readonly (number | string)[];
}

/** Workers of an engine that are on one host. At least one of `ranks` and `devices` says how many. */
export interface WorkerOptions {
  /** One of `ClusterOptions.hosts`. Default: the host that the cluster starts on. */
  readonly host?: string;
  /** As of an instance. */
  readonly devices?: readonly (number | string)[];
  /** As of an instance. */
  readonly ranks?: readonly number[];
}
