import type { InstanceOptions } from '../actors/protocol/instance-options.ts';
import type { Progress } from '../actors/protocol/status-values.ts';
import { firstForeignRank } from '../checkpoint/metas.ts';
import { checkEngineOptions } from '../engines/engine-options.ts';
import { UsageError } from '../errors.ts';
import type { HostOptions } from '../processes/configuration.ts';
import { checkDevices, type DeviceOptions } from '../processes/devices.ts';

export interface ClusterOptions {
  /** Rank processes to start, one a device. */
  readonly ranks: number;
  /** The engine instances to update. Every rank sits on the device of a worker of exactly one of them. */
  readonly instances: readonly InstanceOptions[];
  /** What the ranks own; by default GPUs where there are any, otherwise host devices. */
  readonly devices?: DeviceOptions;
  /** Hosts beside this one, by the name that instances give. Ranks are started on them through their launchers. */
  readonly hosts?: Readonly<Record<string, HostOptions>>;
  /** Where ranks on other hosts reach the supervisor, such as `tcp://10.0.0.1:7000`; a port `*` is any that is free. */
  readonly listen?: string;
  /** Numeric addresses by which ranks of other hosts find those of this one. Default: those of its interfaces. */
  readonly fabricAddresses?: readonly string[];
  /**
   * Of how many checkpoints that were replaced or unregistered the host memory is kept, pinned, for the next ones of the
   * same sizes: registering those then costs no more than the copy. Default: 2; 0 gives it back at once.
   */
  readonly spareCheckpoints?: number;
  /** Called often while checkpoints load and updates run. */
  readonly onProgress?: (progress: Progress) => void;
}

const mostSpareCheckpoints = 16;

/** Throws a UsageError that names the option. */
export function checkOptions({ ranks, instances, devices, hosts, spareCheckpoints }: ClusterOptions): void {
  const isCount =
    Number.isInteger(spareCheckpoints) && spareCheckpoints! >= 0 && spareCheckpoints! <= mostSpareCheckpoints;
  if (spareCheckpoints !== undefined && !isCount) {
    throw new UsageError(
      `spareCheckpoints is ${spareCheckpoints}; it must be a whole number, at most ${mostSpareCheckpoints}`,
    );
  }
  if (!Number.isInteger(ranks) || ranks < 1)
    throw new UsageError(`ranks is ${ranks}; it must be a whole number, at least 1`);
  if (devices !== undefined) checkDevices(devices, ranks);
  const takenBy = new Map<number, string>();
  for (const instance of instances) {
    checkInstance(instance, hosts);
    for (const rank of instance.ranks) {
      if (rank >= ranks) {
        throw new UsageError(`instance ${instance.name} names rank ${rank}; ranks are 0 to ${ranks - 1}`);
      }
      const other = takenBy.get(rank);
      if (other !== undefined)
        throw new UsageError(`rank ${rank} is named by instances ${other} and ${instance.name}`);
      takenBy.set(rank, instance.name);
    }
  }
  if (takenBy.size < ranks) {
    const idle = Array.from({ length: ranks }, (_, rank) => rank).filter((rank) => !takenBy.has(rank));
    throw new UsageError(`rank ${idle.join(', ')} belongs to no instance`);
  }
}

/** Throws a UsageError that names the instance and the option. */
export function checkInstance(instance: InstanceOptions, hosts: ClusterOptions['hosts']): void {
  const { name, host, ranks } = instance;
  checkEngineOptions(name, instance);
  if (ranks.length === 0) throw new UsageError(`instance ${name} has no ranks`);
  for (const rank of ranks) {
    if (!Number.isInteger(rank) || rank < 0 || rank >= firstForeignRank) {
      throw new UsageError(
        `instance ${name} names rank ${rank}; ranks are whole numbers below ${firstForeignRank}`,
      );
    }
  }
  if (host !== undefined && hosts?.[host] === undefined) {
    throw new UsageError(`instance ${name} is on host ${host}, which is not among hosts`);
  }
}
